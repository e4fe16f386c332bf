# GPU images from kernels/*/*.cu and native/limits/*.cu into images/<file>.<target>.{ptx,co}, by clang alone: no vendor SDK. The suffix of a file
# says for which targets it is written:
#   _gpu     sm_80 (PTX, which a driver compiles for any later NVIDIA GPU), gfx90a, gfx942, gfx1100
#   _sm80    sm_80        _sm90    sm_90a        _gfx942    gfx942
# Without a device compiler everything else still builds, and one line says what is left out.
option(KN_GPU "Also build the GPU images, where clang 16 or newer with lld is installed" ON)
option(KN_NVCC "Build NVIDIA images by nvcc, as cubins and PTX, instead of as PTX by clang" OFF)

set(targets_gpu sm_80 gfx90a gfx942 gfx1100)
set(targets_sm80 sm_80)
set(targets_sm90 sm_90a)
set(targets_gfx942 gfx942)
# The oldest PTX that has what the sources use, so that old drivers take it: L1::no_allocate is of 7.4, sm_90a of 8.0.
set(ptx_sm_80 74)
set(ptx_sm_90a 80)
set(KN_IMAGES ${PROJECT_BINARY_DIR}/images)
set(gpu_includes -I${PROJECT_SOURCE_DIR}/native/include -I${PROJECT_SOURCE_DIR}/kernels -I${PROJECT_SOURCE_DIR}/kernels/common)
# No contraction: what is fused is written as fma, so that every target, the simulated one too, rounds alike.
set(gpu_flags -O3 -std=c++20 -fdeclspec -ffp-contract=off -Wall -Wextra -Werror -DKN_GPU_BARE ${gpu_includes})

# Sets KN_DEVICE_CLANG to a clang of at least version 16, if there is one.
function(kn_find_device_clang)
  foreach(version RANGE 30 16 -1)
    list(APPEND names clang-${version})
  endforeach()
  find_program(KN_DEVICE_CLANG NAMES ${names} clang PATHS "$ENV{ProgramFiles}/LLVM/bin")
  if(NOT KN_DEVICE_CLANG)
    return()
  endif()
  execute_process(COMMAND ${KN_DEVICE_CLANG} -dumpversion OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(version VERSION_LESS 16)
    unset(KN_DEVICE_CLANG CACHE)
  endif()
endfunction()

# One image: out_var gets its path.
function(kn_image source target out_var)
  get_filename_component(name ${source} NAME_WE)
  if(target MATCHES "^compute_")
    string(REPLACE compute_ sm_ real ${target})
    set(image ${KN_IMAGES}/${name}.${real}.ptx)
    set(command ${KN_NVCC_COMPILER} -ptx -arch=${target} -std=c++20 -O3 --fmad=false ${gpu_includes} -MD -MF ${image}.d)
  elseif(target MATCHES "^sm_" AND KN_NVCC)
    set(image ${KN_IMAGES}/${name}.${target}.cubin)
    string(REPLACE sm_ compute_ virtual ${target})  # -arch=sm_90a alone lets some nvcc compile for sm_90 first
    set(command ${KN_NVCC_COMPILER} -cubin -gencode=arch=${virtual},code=${target} -std=c++20 -O3 --fmad=false ${gpu_includes} -MD -MF ${image}.d)
  elseif(target MATCHES "^sm_")
    set(image ${KN_IMAGES}/${name}.${target}.ptx)
    set(command ${KN_DEVICE_CLANG} -x cuda --cuda-device-only -nocudainc -nocudalib ${gpu_flags} -MD -MF ${image}.d
                --cuda-gpu-arch=${target} --cuda-feature=+ptx${ptx_${target}} -S)
  else()
    set(image ${KN_IMAGES}/${name}.${target}.co)
    set(command ${KN_DEVICE_CLANG} -x hip --cuda-device-only -nogpuinc -nogpulib ${gpu_flags} -MD -MF ${image}.d
                --offload-arch=${target} --no-gpu-bundle-output)
  endif()
  add_custom_command(
    OUTPUT ${image}
    COMMAND ${command} ${source} -o ${image}
    DEPENDS ${source}
    DEPFILE ${image}.d
    COMMENT "Compiling ${name} for ${target}"
    VERBATIM)
  set(${out_var} ${image} PARENT_SCOPE)
endfunction()

function(kn_gpu_images)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*/*.cu ${PROJECT_SOURCE_DIR}/native/limits/*.cu)
  file(MAKE_DIRECTORY ${KN_IMAGES})
  foreach(source IN LISTS sources)
    if(NOT source MATCHES "_(gpu|sm80|sm90|gfx942)\\.cu$")
      message(FATAL_ERROR "${source}: the suffix names no target")
    endif()
    foreach(target IN LISTS targets_${CMAKE_MATCH_1})
      kn_image(${source} ${target} image)
      list(APPEND images ${image})
    endforeach()
  endforeach()
  if(KN_PTXAS)
    set(ptx ${images})
    list(FILTER ptx INCLUDE REGEX "\\.ptx$")
    add_custom_command(
      OUTPUT ${KN_IMAGES}/registers.txt
      COMMAND ${CMAKE_COMMAND} -DPTXAS=${KN_PTXAS} "-DPTX=${ptx}" -DOUT=${KN_IMAGES}/registers.txt -P
              ${PROJECT_SOURCE_DIR}/native/cmake/ptxas.cmake
      DEPENDS ${ptx} ${PROJECT_SOURCE_DIR}/native/cmake/ptxas.cmake
      COMMENT "Checking PTX with ptxas"
      VERBATIM)
    list(APPEND images ${KN_IMAGES}/registers.txt)
  endif()
  add_custom_target(kn_gpu ALL DEPENDS ${images})
endfunction()

if(KN_GPU AND NOT KN_SANITIZE)
  kn_find_device_clang()
  if(KN_DEVICE_CLANG)
    # Clang links code objects by the lld of its own directory, behind the link that PATH has.
    get_filename_component(clang ${KN_DEVICE_CLANG} REALPATH)
    get_filename_component(clang ${clang} DIRECTORY)
    find_program(KN_LLD NAMES ld.lld lld HINTS ${clang})
  endif()
  find_program(KN_PTXAS ptxas PATHS /usr/local/cuda/bin /opt/kn-cuda/bin /usr/lib/nvidia-cuda-toolkit/bin)
  if(KN_NVCC)
    find_program(KN_NVCC_COMPILER nvcc PATHS /usr/local/cuda/bin REQUIRED)
    # A cubin runs on its own architecture alone; PTX, which a driver compiles, is for the GPUs that come after.
    execute_process(COMMAND ${KN_NVCC_COMPILER} --list-gpu-code OUTPUT_VARIABLE known)
    set(targets_sm80 compute_80 sm_80 sm_90a)
    if(known MATCHES "sm_100")
      list(APPEND targets_sm80 sm_100a)
    endif()
    list(REMOVE_ITEM targets_gpu sm_80)
    list(APPEND targets_gpu ${targets_sm80})
  endif()
  if(NOT KN_DEVICE_CLANG)
    set(without "no clang 16 or newer" clang-19 lld-19)
  elseif(NOT KN_LLD)
    set(without "no lld beside ${KN_DEVICE_CLANG}" "lld-19 for clang-19")
  endif()
  if(without)
    list(POP_FRONT without why)
    list(JOIN without " " packages)
    if(KN_NVCC)
      list(FILTER targets_gpu EXCLUDE REGEX "^gfx")
      set(targets_gfx942)
      set(what "AMD images")
    else()
      set(what "GPU kernels")
    endif()
    message(STATUS "kn_gpu: ${why}, so the ${what} are left out (apt-get install ${packages})")
  endif()
  if(KN_NVCC OR NOT without)
    kn_gpu_images()
    if(NOT KN_PTXAS)
      message(STATUS "kn_gpu: no ptxas, so PTX is not verified here (Debian non-free: apt-get install nvidia-cuda-toolkit)")
    endif()
  endif()
endif()
