// A CUDA runtime and a cuBLAS that compute nothing, for LD_PRELOAD before the real ones: libtorch's own dispatch, allocator,
// generator and graphs run on a machine without a GPU. Memory is the host's, copies copy, kernels are counted.
//
// What it refuses while a stream is captured is what a GPU refuses: a call that waits for the device, and work on another
// stream. Such a call fails, and the capture with it. `main.rs` reads what was seen through the functions `fake_cuda_*`.
//
// It is no emulator: numbers that kernels should have written are zeros, or what was there. With FAKE_CUDA_FILL=N they are bytes
// of N where no memory is used twice (PYTORCH_NO_CUDA_MEMORY_CACHING=1): finite, positive, and of one process alone. At its end
// a process then writes what was refused into the file that FAKE_CUDA_REPORT names.
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

// Everything is under one lock; libtorch calls from autograd's threads too.
std::recursive_mutex guard;
using Lock = std::lock_guard<std::recursive_mutex>;

struct Device {
    std::unordered_map<const void *, std::string> kernels; // by the address of their host function
    std::unordered_map<void *, size_t> sizes;
    std::vector<std::string> operations; // since `fake_cuda_watch`, captured ones too
    std::string waits;                   // what has waited since, a line each, with who asked for it
    std::string refused;                 // what failed, in a capture or ever, likewise
    long waited = 0, replays = 0;
    // The capture under way.
    cudaStream_t stream = nullptr;
    bool capturing = false, broken = false, no_captures = false;
    unsigned long long captures = 0;
    size_t captured = 0;
    std::map<cudaGraph_t, size_t> graphs; // operations in each
    size_t handles = 0x1000;
};

// Never destroyed: libraries still call at exit.
Device &device() {
    static auto *one = new Device;
    return *one;
}

std::string plain(const std::string &mangled) {
    int status = 0;
    char *name = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
    const std::string text(status == 0 ? name : mangled.c_str());
    std::free(name);
    return text;
}

// The functions of libtorch and of this program that led here, the innermost first.
std::string callers() {
    static auto *names = new std::unordered_map<void *, std::string>; // looking one up takes a millisecond
    void *frames[64];
    const int n = backtrace(frames, 64);
    std::string text;
    int named = 0;
    for (int i = 0; i < n && named < 6; ++i) {
        const auto [found, is_new] = names->try_emplace(frames[i]);
        if (Dl_info of; is_new && dladdr(frames[i], &of) && of.dli_sname) {
            found->second = of.dli_sname;
        }
        const auto &name = found->second;
        if (name.rfind("_ZN2at", 0) != 0 && name.rfind("at_", 0) != 0 && name.rfind("atg_", 0) != 0) {
            continue;
        }
        text += " < " + plain(name).substr(0, 80);
        ++named;
    }
    return text;
}

// An operation of the device.
cudaError_t asked(const std::string &what, cudaStream_t stream) {
    Lock lock(guard);
    auto &d = device();
    d.operations.push_back(what);
    if (!d.capturing) {
        return cudaSuccess;
    }
    if (stream != d.stream) {
        d.refused += what + " on another stream" + callers() + "\n";
        d.broken = true;
        return cudaErrorStreamCaptureImplicit;
    }
    ++d.captured;
    return cudaSuccess;
}

// A call for which the host waits for the device.
cudaError_t waits(const char *what) {
    Lock lock(guard);
    auto &d = device();
    ++d.waited;
    d.waits += what + callers() + "\n";
    if (!d.capturing) {
        return cudaSuccess;
    }
    d.refused += what + callers() + "\n";
    d.broken = true;
    return cudaErrorStreamCaptureUnsupported;
}

// A call that does not wait, and that a capture does not allow either.
cudaError_t queries(const char *what) {
    Lock lock(guard);
    return device().capturing ? waits(what) : cudaSuccess;
}

void *memory(size_t bytes) {
    bytes = bytes ? bytes : 1;
    void *address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (static const char *fill = std::getenv("FAKE_CUDA_FILL"); fill) {
        std::memset(address, std::atoi(fill), bytes);
    }
    Lock lock(guard);
    device().sizes[address] = bytes;
    return address;
}

cudaError_t release(void *address) {
    Lock lock(guard);
    auto &sizes = device().sizes;
    if (auto found = sizes.find(address); found != sizes.end()) {
        munmap(address, found->second);
        sizes.erase(found);
    }
    return cudaSuccess;
}

template <typename T> T handle() {
    Lock lock(guard);
    return reinterpret_cast<T>(device().handles += 16);
}

// What no card takes, in a capture or not.
cudaError_t refuses(const std::string &what, cudaError_t error) {
    Lock lock(guard);
    device().refused += what + callers() + "\n";
    return error;
}

bool fits(dim3 grid, dim3 block) {
    const bool is_empty = !grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z;
    return !is_empty && grid.x <= 2147483647 && grid.y <= 65535 && grid.z <= 65535 && block.z <= 64 &&
           1ull * block.x * block.y * block.z <= 1024;
}

cudaError_t launched(const void *kernel, dim3 grid, dim3 block, cudaStream_t stream) {
    Lock lock(guard);
    static auto *names = new std::unordered_map<const void *, std::string>;
    auto &name = (*names)[kernel];
    if (name.empty()) {
        const auto found = device().kernels.find(kernel);
        name = found == device().kernels.end() ? "?" : plain(found->second);
    }
    return fits(grid, block) ? asked(name, stream) : refuses(name + " of this shape", cudaErrorInvalidConfiguration);
}

struct Launch {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
thread_local std::vector<Launch> launches;

__attribute__((destructor)) void report() {
    const char *path = std::getenv("FAKE_CUDA_REPORT");
    std::FILE *file = path ? std::fopen(path, "w") : nullptr;
    if (file) {
        std::fputs(device().refused.c_str(), file);
        std::fclose(file);
    }
}

} // namespace

extern "C" {

// ---- what `main.rs` asks
void fake_cuda_watch() {
    Lock lock(guard);
    auto &d = device();
    d.operations.clear();
    d.waits.clear();
    d.refused.clear();
    d.waited = d.replays = 0;
}
size_t fake_cuda_operations() { return device().operations.size(); }
long fake_cuda_waited() { return device().waited; }
long fake_cuda_replays() { return device().replays; }
const char *fake_cuda_waits() { return device().waits.c_str(); }
const char *fake_cuda_refused() { return device().refused.c_str(); }
const char *fake_cuda_operation(size_t i) { return device().operations[i].c_str(); }

void fake_cuda_refuse_captures(int refuse) { device().no_captures = refuse; }

// ---- kernels
void **__cudaRegisterFatBinary(void *) {
    static void *one;
    return &one;
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **, const char *host, char *, const char *name, int, uint3 *, uint3 *, dim3 *, dim3 *, int *) {
    Lock lock(guard);
    device().kernels[host] = name;
}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    launches.push_back({grid, block, shared, stream});
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    const auto last = launches.back();
    launches.pop_back();
    *grid = last.grid;
    *block = last.block;
    *shared = last.shared;
    *static_cast<cudaStream_t *>(stream) = last.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = static_cast<cudaKernel_t>(const_cast<void *>(function));
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **, size_t, cudaStream_t stream) {
    return launched(reinterpret_cast<const void *>(kernel), grid, block, stream);
}
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **, size_t, cudaStream_t stream) {
    return launched(kernel, grid, block, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **) {
    return launched(kernel, how->gridDim, how->blockDim, how->stream);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *of, const void *) {
    *of = {};
    of->maxThreadsPerBlock = 1024;
    of->numRegs = 32;
    of->ptxVersion = of->binaryVersion = 90;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *, int threads, size_t, unsigned) {
    *n = threads > 0 && threads < 2048 ? 2048 / threads : 1;
    *n = *n > 32 ? 32 : *n;
    return cudaSuccess;
}

// ---- the device: an H100
cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *index) {
    *index = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) {
    return index == 0 ? cudaSuccess : refuses("cudaSetDevice", cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    *p = {};
    std::strcpy(p->name, "no device");
    p->totalGlobalMem = 80ull << 30;
    p->major = 9;
    p->multiProcessorCount = 132;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->l2CacheSize = 50 << 20;
    for (int i = 0; i < 3; ++i) {
        p->maxThreadsDim[i] = i < 2 ? 1024 : 64;
        p->maxGridSize[i] = i == 0 ? 2147483647 : 65535;
    }
    p->textureAlignment = 512;
    p->memoryBusWidth = 5120;
    p->concurrentKernels = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    default: *value = 0;
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int n, int) {
    std::strncpy(id, "0000:00:00.0", n);
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
    *can = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return waits("cudaDeviceSynchronize"); }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
const char *cudaGetErrorName(cudaError_t) { return "an error of the fake device"; }
const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureImplicit: return "operation would make the legacy stream depend on a capturing blocking stream";
    default: return "an error of the fake device";
    }
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *found) {
    *function = nullptr;
    if (found) {
        *found = cudaDriverEntryPointSymbolNotFound;
    }
    return cudaSuccess;
}

// ---- memory
cudaError_t cudaMalloc(void **address, size_t bytes) {
    *address = memory(bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *address) {
    if (!address) {
        return cudaSuccess;
    }
    const auto error = queries("cudaFree");
    return error == cudaSuccess ? release(address) : error;
}
cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned) { return cudaMalloc(address, bytes); }
cudaError_t cudaFreeHost(void *address) { return release(address); }
cudaError_t cudaHostRegister(void *, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void *) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *free = 79ull << 30;
    *total = 80ull << 30;
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
    const auto error = waits("cudaMemcpy");
    std::memmove(to, from, bytes);
    return error;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    static const char *kinds[] = {"host to host", "host to device", "device to host", "device to device", "any"};
    const auto error = asked(std::string("copy, ") + kinds[kind], stream);
    if (!device().capturing) {
        std::memmove(to, from, bytes);
    }
    return error;
}
cudaError_t cudaMemcpyToSymbol(const void *, const void *, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    const auto error = waits("cudaMemset");
    std::memset(to, value, bytes);
    return error;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    const auto error = asked("set", stream);
    if (!device().capturing) {
        std::memset(to, value, bytes);
    }
    return error;
}
cudaError_t cudaGetSymbolAddress(void **address, const void *) {
    static void *one = memory(1 << 20);
    *address = one;
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *of, const void *address) {
    *of = {};
    of->type = cudaMemoryTypeDevice;
    of->devicePointer = const_cast<void *>(address);
    return cudaSuccess;
}

// ---- streams and events: all of it is done when it is asked for
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned, int) {
    *stream = handle<cudaStream_t>();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return waits("cudaStreamSynchronize"); }
cudaError_t cudaStreamQuery(cudaStream_t) { return queries("cudaStreamQuery"); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = handle<cudaEvent_t>();
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return queries("cudaEventQuery"); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return waits("cudaEventSynchronize"); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    *ms = 1;
    return cudaSuccess;
}

// ---- capture
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    Lock lock(guard);
    const auto &d = device();
    *status = !d.capturing || stream != d.stream ? cudaStreamCaptureStatusNone
              : d.broken                         ? cudaStreamCaptureStatusInvalidated
                                                 : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *n) {
    cudaStreamIsCapturing(stream, status);
    if (id) *id = device().captures;
    if (graph) *graph = nullptr;
    if (nodes) *nodes = nullptr;
    if (edges) *edges = nullptr;
    if (n) *n = 0;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    Lock lock(guard);
    auto &d = device();
    if (d.no_captures) {
        return cudaErrorStreamCaptureUnsupported;
    }
    d.capturing = true;
    d.broken = false;
    d.stream = stream;
    d.captured = 0;
    ++d.captures;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
    Lock lock(guard);
    auto &d = device();
    d.capturing = false;
    *graph = nullptr;
    if (d.broken) {
        return cudaErrorStreamCaptureInvalidated;
    }
    *graph = handle<cudaGraph_t>();
    d.graphs[*graph] = d.captured;
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *n) {
    Lock lock(guard);
    *n = device().graphs[graph];
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t, unsigned long long) {
    *made = handle<cudaGraphExec_t>();
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) {
    Lock lock(guard);
    ++device().replays;
    return asked("graph", stream);
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }

// ---- cuBLAS: only where its stream and its products matter; the signatures are cuBLAS's, the types as wide as theirs
typedef void *Blas;
static thread_local cudaStream_t blas_stream = nullptr;
static int product(const char *name) { return asked(name, blas_stream) == cudaSuccess ? 0 : 13; }
int cublasCreate_v2(Blas *made) {
    *made = handle<Blas>();
    return 0;
}
int cublasDestroy_v2(Blas) { return 0; }
int cublasSetStream_v2(Blas, cudaStream_t stream) {
    blas_stream = stream;
    return 0;
}
int cublasSetWorkspace_v2(Blas, void *, size_t) { return 0; }
int cublasSetMathMode(Blas, int) { return 0; }
int cublasGetMathMode(Blas, int *mode) {
    *mode = 0;
    return 0;
}
int cublasSetPointerMode_v2(Blas, int) { return 0; }
int cublasGetPointerMode_v2(Blas, int *mode) {
    *mode = 0;
    return 0;
}
int cublasSgemm_v2() { return product("cublasSgemm"); }
int cublasSgemv_v2() { return product("cublasSgemv"); }
int cublasSgemmStridedBatched() { return product("cublasSgemmStridedBatched"); }
int cublasGemmEx() { return product("cublasGemmEx"); }
int cublasGemmStridedBatchedEx() { return product("cublasGemmStridedBatchedEx"); }
size_t cublasLtGetVersion() { return 130100; }
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *found, int *n) {
    std::memset(found, 0, 8 * 8 + 8 + 4 + 4 + 4 * 4); // cublasLtMatmulHeuristicResult_t
    *n = 1;
    return 0;
}
int cublasLtMatmul(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *, void *,
                   void *, void *, const void *, void *, size_t, cudaStream_t stream) {
    return asked("cublasLtMatmul", stream) == cudaSuccess ? 0 : 13;
}
}
