// The device behind the C ABI: options, launches on the workers, the report of the last launch.
#include <string.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "machine.h"

namespace simt {

static kn_simt_registration* kernels = nullptr;  // the constructors of the .cu files build the list
static thread_local char sentence_of_thread[512];

int32_t fail(int32_t status, const std::string& sentence) {
  snprintf(sentence_of_thread, sizeof sentence_of_thread, "%s", sentence.c_str());
  return status;
}

namespace {

struct Report {
  Fault fault;
  Place place, other;
  std::string text;
};

// Lives as long as the process: its workers sleep when the process ends.
struct Device {
  std::mutex call;  // one call at a time
  kn_simt_options options{sizeof(kn_simt_options), 32, 4, kMaxShared, 0, 0, 0};
  uint64_t launches = 0;
  std::string kernel;
  std::vector<Report> reports;

  std::mutex lock;  // of what follows
  std::condition_variable begun, ended;
  std::vector<std::unique_ptr<Worker>> workers;
  const Launch* launch = nullptr;
  uint64_t generation = 0;
  size_t wanted = 0, running = 0;
};

Device& device() {
  static Device* const only = new Device;
  return *only;
}

void work(Worker& self, size_t number) {
  Device& d = device();
  worker_signal_stack();
  for (uint64_t seen = 0;;) {
    std::unique_lock<std::mutex> guard(d.lock);
    d.begun.wait(guard, [&] { return d.generation != seen; });
    seen = d.generation;
    if (number >= d.wanted) continue;
    const Launch& launch = *d.launch;
    guard.unlock();
    if (launch.cooperative)
      self.run_cooperative(launch);
    else
      self.run(launch);
    guard.lock();
    if (--d.running == 0) d.ended.notify_one();
  }
}

void run_on_workers(const Launch& launch) {
  Device& d = device();
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const uint64_t most = d.options.workers ? static_cast<uint64_t>(d.options.workers) : cores;
  std::unique_lock<std::mutex> guard(d.lock);
  d.wanted = d.running = static_cast<size_t>(launch.cooperative ? 1 : std::min(most, launch.blocks));
  while (d.workers.size() < d.wanted) {
    d.workers.push_back(std::make_unique<Worker>());
    std::thread(work, std::ref(*d.workers.back()), d.workers.size() - 1).detach();
  }
  d.launch = &launch;
  d.generation++;
  d.begun.notify_all();
  d.ended.wait(guard, [&] { return d.running == 0; });
}

const kn_simt_registration* registered(const char* name, int wave) {
  for (const kn_simt_registration* r = kernels; r; r = r->next)
    if (r->wave == wave && strcmp(r->name, name) == 0) return r;
  return nullptr;
}

std::string triple(kn_simt_uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

std::string place_text(const Place& place, uintptr_t pc) {
  if (place.line) return place.file.substr(place.file.rfind('/') + 1) + ":" + std::to_string(place.line);
  char text[64];
  snprintf(text, sizeof text, "+%#zx", static_cast<size_t>(pc - image().begin));
  return image().path.substr(image().path.rfind('/') + 1) + text;
}

void keep_report(const Launch& launch) {
  Device& d = device();
  std::vector<uintptr_t> pcs;
  for (const Fault& f : launch.faults) pcs.insert(pcs.end(), {f.pc, f.other_pc});
  const std::vector<Place> places = pcs.empty() ? std::vector<Place>() : resolve(pcs);
  for (size_t i = 0; i < launch.faults.size(); i++) {
    Report r{launch.faults[i], places[2 * i], places[2 * i + 1], {}};
    const Fault& f = r.fault;
    r.text = d.kernel + ", block " + triple(f.block) + ", thread " + triple(f.thread) + ", " +
             place_text(r.place, f.pc) + ": " + f.what;
    if (f.other_pc) r.text += "; thread " + triple(f.other_thread) + " at " + place_text(r.other, f.other_pc);
    d.reports.push_back(std::move(r));
  }
}

int32_t check_launch(const kn_simt_launch& l, const kn_simt_registration& kernel, const kn_simt_options& o) {
  const uint64_t threads = uint64_t{l.block[0]} * l.block[1] * l.block[2];
  const uint64_t blocks = uint64_t{l.grid[0]} * l.grid[1] * l.grid[2];
  if (!l.args || l.args_bytes != kernel.args_bytes)
    return fail(KN_INVALID, "args: requires the " + std::to_string(kernel.args_bytes) + " bytes that the kernel takes");
  if (l.args_bytes > kMaxArgs) return fail(KN_INVALID, "args: requires at most 4096 bytes");
  if (kernel.threads && threads > static_cast<uint64_t>(kernel.threads))
    return fail(KN_INVALID, "block: requires at most the kernel's " + std::to_string(kernel.threads) + " threads");
  if (l.block[0] > kMaxThreads || l.block[1] > kMaxThreads || l.block[2] > 64 || threads < 1 || threads > kMaxThreads)
    return fail(KN_INVALID, "block: requires 1 to 1024 threads");
  if (l.grid[0] > 0x7fffffff || l.grid[1] > 65535 || l.grid[2] > 65535 || blocks < 1)
    return fail(KN_INVALID, "grid: requires 1 to 2^31 - 1 by 65535 by 65535 blocks");
  if (l.dynamic_shared > static_cast<uint32_t>(o.shared_per_block))
    return fail(KN_INVALID, "dynamic_shared: requires at most shared_per_block");
  if (!l.cooperative) return KN_OK;
  uint64_t per_sm = std::min<uint64_t>(2048 / ((threads + 31) / 32 * 32), 32);
  if (l.dynamic_shared) per_sm = std::min<uint64_t>(per_sm, kMaxShared / l.dynamic_shared);
  if (blocks > per_sm * static_cast<uint64_t>(o.sm_count))
    return fail(KN_INVALID, "grid: requires a cooperative grid that fits the device at once");
  return KN_OK;
}

int32_t launch_kernel(const kn_simt_launch* l) {
  Device& d = device();
  const std::lock_guard<std::mutex> guard(d.call);
  d.reports.clear();
  if (!l || l->size != sizeof *l) return fail(KN_INVALID, "launch: requires the size of kn_simt_launch");
  if (!l->kernel) return fail(KN_INVALID, "kernel: requires a name");
  const kn_simt_registration* const kernel = registered(l->kernel, d.options.wave_size);
  if (!kernel) return fail(KN_UNSUPPORTED, std::string(l->kernel) + ": no such kernel for this wave size");
  if (const int32_t status = check_launch(*l, *kernel, d.options)) return status;
  d.kernel = kernel->name;
  Launch launch;
  launch.number = ++d.launches;
  launch.kernel = kernel;
  launch.grid = {l->grid[0], l->grid[1], l->grid[2]};
  launch.block = {l->block[0], l->block[1], l->block[2]};
  launch.dynamic_shared = l->dynamic_shared;
  launch.cooperative = l->cooperative != 0;
  launch.options = d.options;
  alignas(64) char args[kMaxArgs];
  memcpy(args, l->args, l->args_bytes);
  launch.args = args;
  launch.blocks = uint64_t{l->grid[0]} * l->grid[1] * l->grid[2];
  run_on_workers(launch);
  if (launch.no_memory) return fail(KN_NO_MEMORY, "the simulated device has no memory for its threads");
  keep_report(launch);
  return d.reports.empty() ? KN_OK : fail(KN_DEVICE, d.reports[0].text);
}

const char* last_error() { return sentence_of_thread; }

int32_t describe(const kn_simt_registration* r, kn_simt_kernel* kernel) {
  if (!kernel || kernel->size != sizeof *kernel) return fail(KN_INVALID, "kernel: requires the size of kn_simt_kernel");
  if (!r) return fail(KN_UNSUPPORTED, "no such kernel for this wave size");
  *kernel = {sizeof *kernel, static_cast<int32_t>(r->args_bytes), r->name, r->file};
  return KN_OK;
}

int32_t kernel_at(int32_t index, kn_simt_kernel* kernel) {
  const kn_simt_registration* r = kernels;
  while (r && index-- > 0) r = r->next;
  return describe(r, kernel);
}

int32_t find(const char* name, kn_simt_kernel* kernel) {
  const std::lock_guard<std::mutex> guard(device().call);
  return describe(name ? registered(name, device().options.wave_size) : nullptr, kernel);
}

void get_options(kn_simt_options* options) {
  const std::lock_guard<std::mutex> guard(device().call);
  *options = device().options;
}

int32_t set_options(const kn_simt_options* o) {
  Device& d = device();
  const std::lock_guard<std::mutex> guard(d.call);
  if (!o || o->size != sizeof *o) return fail(KN_INVALID, "options: requires the size of kn_simt_options");
  if (o->wave_size != 32 && o->wave_size != 64) return fail(KN_INVALID, "wave_size: requires 32 or 64");
  if (o->sm_count < 1 || o->sm_count > 1024) return fail(KN_INVALID, "sm_count: requires 1 to 1024");
  if (o->shared_per_block < 0 || o->shared_per_block > kMaxShared)
    return fail(KN_INVALID, "shared_per_block: requires at most 232448");
  if (o->workers < 0 || o->workers > 256) return fail(KN_INVALID, "workers: requires 0 to 256");
  d.options = *o;
  if (o->check_global) global_track();
  return KN_OK;
}

int32_t alloc(int64_t bytes, void** pointer) {
  const std::lock_guard<std::mutex> guard(device().call);
  return pointer ? global_alloc(bytes, pointer) : fail(KN_INVALID, "pointer: requires a place for the result");
}

int32_t release(void* pointer) {
  const std::lock_guard<std::mutex> guard(device().call);
  return global_free(pointer);
}

int32_t copy(void* to, const void* from, int64_t bytes) {
  const std::lock_guard<std::mutex> guard(device().call);
  if (bytes < 0 || (bytes && (!to || !from))) return fail(KN_INVALID, "copy: requires two addresses and bytes >= 0");
  if (int32_t status = global_range(to, bytes)) return status;
  if (int32_t status = global_range(from, bytes)) return status;
  if (bytes) memmove(to, from, static_cast<size_t>(bytes));
  global_written(to, bytes);
  return KN_OK;
}

int32_t fill(void* to, int32_t byte, int64_t bytes) {
  const std::lock_guard<std::mutex> guard(device().call);
  if (bytes < 0 || (bytes && !to)) return fail(KN_INVALID, "fill: requires an address and bytes >= 0");
  if (int32_t status = global_range(to, bytes)) return status;
  if (bytes) memset(to, byte, static_cast<size_t>(bytes));
  global_written(to, bytes);
  return KN_OK;
}

int32_t encode_tensor(const kn_simt_tensor* t, void* map) {
  if (!t || t->size != sizeof *t) return fail(KN_INVALID, "tensor: requires the size of kn_simt_tensor");
  if (!map) return fail(KN_INVALID, "map: requires a place for the result");
  const uintptr_t address = reinterpret_cast<uintptr_t>(t->address);
  if (!address || address % 16) return fail(KN_INVALID, "address: requires a multiple of 16 bytes");
  if (t->element_bytes < 1 || t->element_bytes > 8 || (t->element_bytes & (t->element_bytes - 1)))
    return fail(KN_INVALID, "element_bytes: requires 1, 2, 4 or 8");
  for (int64_t n : t->shape)
    if (n < 1 || n > int64_t{1} << 32) return fail(KN_INVALID, "shape: requires 1 to 2^32");
  for (int64_t n : t->strides)
    if (n < 16 || n % 16 || n >= int64_t{1} << 40)
      return fail(KN_INVALID, "strides: requires multiples of 16 below 2^40");
  for (int32_t n : t->box)
    if (n < 1 || n > 256) return fail(KN_INVALID, "box: requires 1 to 256");
  if (t->box[0] * t->element_bytes != kTileRow) return fail(KN_INVALID, "box: requires rows of 128 bytes");
  const TensorMap encoded{kTensorMap, *t};
  memset(map, 0, 128);
  memcpy(map, &encoded, sizeof encoded);
  return KN_OK;
}

int32_t fault_count() {
  const std::lock_guard<std::mutex> guard(device().call);
  return static_cast<int32_t>(device().reports.size());
}

int32_t get_fault(int32_t index, kn_simt_fault* out) {
  Device& d = device();
  const std::lock_guard<std::mutex> guard(d.call);
  if (!out || out->size != sizeof *out) return fail(KN_INVALID, "fault: requires the size of kn_simt_fault");
  if (index < 0 || index >= static_cast<int32_t>(d.reports.size())) return fail(KN_INVALID, "index: no such fault");
  const Report& r = d.reports[static_cast<size_t>(index)];
  const Fault& f = r.fault;
  const auto name = [](const Place& p) { return p.line ? p.file.c_str() : nullptr; };
  *out = {sizeof *out,
          f.kind,
          {f.block.x, f.block.y, f.block.z},
          {f.thread.x, f.thread.y, f.thread.z},
          {f.other_thread.x, f.other_thread.y, f.other_thread.z},
          f.bytes,
          r.place.line,
          r.other.line,
          f.address,
          d.kernel.c_str(),
          name(r.place),
          name(r.other),
          r.text.c_str()};
  return KN_OK;
}

}  // namespace
}  // namespace simt

kn_simt_registration::kn_simt_registration(const char* name, const char* file, void (*entry)(const void*),
                                           size_t args_bytes, int wave, int threads)
    : name(name), file(file), entry(entry), args_bytes(args_bytes), wave(wave), threads(threads), next(simt::kernels) {
  simt::kernels = this;
}

int32_t kn_simt_get(uint32_t abi, kn_simt_library* library) {
  using namespace simt;
  if (library) library->abi = KN_SIMT_ABI;
  if (!library || library->size != sizeof *library) return fail(KN_ABI_MISMATCH, "library: another size");
  if (abi != KN_SIMT_ABI) return fail(KN_ABI_MISMATCH, "abi: another version");
  static std::once_flag once;
  std::call_once(once, install_signals);
  int32_t count = 0;
  for (const kn_simt_registration* r = kernels; r; r = r->next) count++;
  *library = {sizeof *library, KN_SIMT_ABI, KN_SIMT_CHECKED, count,   last_error, kernel_at, find,
              get_options,     set_options, alloc,           release, copy,       fill,      launch_kernel,
              fault_count,     get_fault,   encode_tensor};
  return KN_OK;
}
