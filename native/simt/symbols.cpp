// From addresses to source lines, by addr2line, and where this library is in memory.
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"

namespace simt {

namespace {

struct Search {
  uintptr_t inside, begin, end;
  char* tls;
  size_t tls_bytes;
};

int visit(dl_phdr_info* info, size_t, void* data) {
  Search& search = *static_cast<Search*>(data);
  uintptr_t end = 0;
  size_t tls_bytes = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type == PT_LOAD) end = std::max<uintptr_t>(end, info->dlpi_addr + header.p_vaddr + header.p_memsz);
    if (header.p_type == PT_TLS) tls_bytes = header.p_memsz;
  }
  if (search.inside < info->dlpi_addr || search.inside >= end) return 0;
  search = {search.inside, info->dlpi_addr, end, static_cast<char*>(info->dlpi_tls_data), tls_bytes};
  return 1;
}

// What a command prints, or nothing if it cannot be run.
std::string output_of(const std::vector<std::string>& command) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const bool started = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ) == 0;
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t n; started && (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status;
  if (started) waitpid(child, &status, 0);
  return text;
}

bool is_header(const std::string& file) {
  const size_t dot = file.rfind('.');
  return dot == std::string::npos || file.compare(dot, std::string::npos, ".cu") != 0;
}

}  // namespace

const Image& image() {
  static const Image only = [] {
    Dl_info here{};
    dladdr(reinterpret_cast<void*>(&kn_simt_get), &here);
    Search search{reinterpret_cast<uintptr_t>(&kn_simt_get), 0, 0, nullptr, 0};
    dl_iterate_phdr(visit, &search);
    return Image{here.dli_fname ? here.dli_fname : "", search.begin, search.end};
  }();
  return only;
}

void find_statics(char** begin, size_t* bytes) {
  Search search{image().begin, 0, 0, nullptr, 0};
  dl_iterate_phdr(visit, &search);
  *begin = search.tls;
  *bytes = search.tls ? search.tls_bytes : 0;
}

// Of the functions inlined at a place, innermost first, the first one that stands in a .cu file.
std::vector<Place> resolve(const std::vector<uintptr_t>& pcs) {
  std::vector<std::string> command{"addr2line", "-a", "-i", "-e", image().path};
  for (uintptr_t pc : pcs) {
    char text[32];
    // The byte before a return address belongs to the call.
    snprintf(text, sizeof text, "%#zx", static_cast<size_t>(pc > image().begin ? pc - image().begin - 1 : 0));
    command.push_back(text);
  }
  std::vector<Place> places(pcs.size());
  const std::string text = output_of(command);
  size_t at = 0, number = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.compare(0, 2, "0x") == 0) {
      number++;
      continue;
    }
    const size_t colon = line.rfind(':');
    if (!number || number > places.size() || colon == std::string::npos || line[0] == '?') continue;
    Place& place = places[number - 1];
    if (place.line && !(is_header(place.file) && !is_header(line.substr(0, colon)))) continue;
    place = {line.substr(0, colon), atoi(line.c_str() + colon + 1)};
  }
  return places;
}

}  // namespace simt
