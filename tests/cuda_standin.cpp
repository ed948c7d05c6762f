// A CUDA driver on the CPU, for tests: what is put into a stream is done when somebody waits for it, and not before.
//
// So a result that is read too early is not there, and pinned memory that is changed too early is seen changed. Kernels are
// g++'s, of the library that STANDIN_KERNELS names. Where cuda.h is there (STANDIN_HEADER) the compiler holds every signature
// to it.
#ifdef STANDIN_HEADER
#define __CUDA_API_VERSION_INTERNAL 1
#include <cuda.h>
#else
#include <cstddef>
#include <cstdint>
typedef int CUresult, CUdevice, CUdevice_attribute, CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef uint64_t cuuint64_t;
typedef struct C *CUcontext; typedef struct S *CUstream; typedef struct E *CUevent; typedef struct M *CUmodule;
typedef struct F *CUfunction; typedef struct G *CUgraph; typedef struct X *CUgraphExec;
typedef void (*CUhostFn)(void *);
#define CUDA_SUCCESS 0
#define CUDA_ERROR_INVALID_VALUE 1
#define CUDA_ERROR_OUT_OF_MEMORY 2
#endif
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {
using Op = std::function<void()>;
struct Stream { std::vector<Op> waiting, captured; bool capturing = false; };
struct Event { double at = 0; };
struct Graph { std::vector<Op> ops; };
thread_local int capturing = 0;  // streams of this thread
struct Kernel { void (*run)(long long, int, void **); const int *sizes; };
std::map<std::string, long long> counts;
std::map<CUdeviceptr, size_t> memory;
std::map<char *, size_t> pinned;
size_t most = (size_t)1 << 40;
bool refuses = false;  // to capture
thread_local CUcontext current = nullptr;
double now = 0;
void *library = nullptr;

void put(CUstream stream, Op op) {
    if ((size_t)stream <= 2) return op();  // the default streams, by their handles: nobody works there
    Stream *s = (Stream *)stream;
    (s->capturing ? s->captured : s->waiting).push_back(std::move(op));
}
void finish(Stream *s) {
    std::vector<Op> ops;
    ops.swap(s->waiting);
    for (auto &op : ops) { now += 0.5; op(); }
}
bool holds(CUdeviceptr at, size_t bytes) {
    auto next = memory.upper_bound(at);
    if (next == memory.begin()) return false;
    --next;
    return at + bytes <= next->first + next->second;
}
bool is_pinned(const void *at) {
    auto next = pinned.upper_bound((char *)at);
    if (next == pinned.begin()) return false;
    --next;
    return (char *)at < next->first + next->second;
}
}  // namespace

extern "C" {
long long standin_count(const char *name) { return counts[name]; }
void standin_reset() { counts.clear(); }
void standin_memory(size_t bytes) { most = bytes; }
void standin_refuse_captures(int yes) { refuses = yes; }
long long standin_open() { return (long long)(memory.size() + pinned.size()) + counts["streams open"] + counts["contexts open"] + counts["graphs open"]; }
void standin_kernels(const char *path) { library = dlopen(path, RTLD_NOW); }
}

#define CALL(name, ...) extern "C" CUresult name(__VA_ARGS__) { ++counts[#name];
#define HERE if (!current) return (CUresult)201;
#define END return CUDA_SUCCESS; }
#define UNCAPTURED if (capturing) return (CUresult)900;  // what a capture in this thread forbids

CALL(cuInit, unsigned int) END
CALL(cuDeviceGetCount, int *n) *n = 2; END
CALL(cuDeviceGet, CUdevice *d, int k) *d = k; END
CALL(cuDeviceGetName, char *name, int size, CUdevice) strncpy(name, "Stand-in", size); END
CALL(cuDriverGetVersion, int *v) *v = 12080; END
CALL(cuDeviceGetAttribute, int *v, CUdevice_attribute a, CUdevice) *v = (int)a == 75 ? 9 : 0; END
CALL(cuDevicePrimaryCtxRetain, CUcontext *c, CUdevice d) *c = (CUcontext)(size_t)(d + 1); ++counts["contexts open"]; END
CALL(cuDevicePrimaryCtxRelease_v2, CUdevice) --counts["contexts open"]; END
CALL(cuCtxSetCurrent, CUcontext c) current = c; END
CALL(cuStreamCreate, CUstream *s, unsigned int) HERE *s = (CUstream) new Stream; ++counts["streams open"]; END
CALL(cuStreamDestroy_v2, CUstream s) delete (Stream *)s; --counts["streams open"]; END
CALL(cuStreamSynchronize, CUstream s) HERE UNCAPTURED finish((Stream *)s); END
CALL(cuMemAlloc_v2, CUdeviceptr *at, size_t bytes) HERE UNCAPTURED
    size_t used = bytes;
    for (auto &m : memory) used += m.second;
    if (used > most) return CUDA_ERROR_OUT_OF_MEMORY;
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(p, 0xFF, bytes);
    *at = (CUdeviceptr)(size_t)p;
    memory[*at] = bytes;
END
CALL(cuMemFree_v2, CUdeviceptr at) HERE UNCAPTURED
    if (!memory.erase(at)) return CUDA_ERROR_INVALID_VALUE;
    free((void *)(size_t)at);
END
CALL(cuMemHostAlloc, void **at, size_t bytes, unsigned int) HERE UNCAPTURED
    *at = malloc(bytes);
    pinned[(char *)*at] = bytes;
END
CALL(cuMemFreeHost, void *at) HERE if (!pinned.erase((char *)at)) return CUDA_ERROR_INVALID_VALUE; free(at); END
CALL(cuMemcpyHtoDAsync_v2, CUdeviceptr to, const void *from, size_t bytes, CUstream s) HERE
    if (!holds(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    counts["bytes up"] += (long long)bytes;
    if (is_pinned(from)) { put(s, [=] { memcpy((void *)(size_t)to, from, bytes); }); return CUDA_SUCCESS; }
    UNCAPTURED  // a graph would read the host's memory when it runs, not what is there now
    std::vector<char> staged((const char *)from, (const char *)from + bytes);
    put(s, [=] { memcpy((void *)(size_t)to, staged.data(), bytes); });
END
CALL(cuMemcpyDtoHAsync_v2, void *to, CUdeviceptr from, size_t bytes, CUstream s) HERE
    if (!holds(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    counts["bytes back"] += (long long)bytes;
    put(s, [=] { memcpy(to, (void *)(size_t)from, bytes); });
END
CALL(cuMemsetD32Async, CUdeviceptr to, unsigned int value, size_t n, CUstream s) HERE
    if (!holds(to, 4 * n)) return CUDA_ERROR_INVALID_VALUE;
    put(s, [=] { for (size_t k = 0; k < n; ++k) ((unsigned *)(size_t)to)[k] = value; });
END
CALL(cuMemGetInfo_v2, size_t *left, size_t *all) HERE
    *all = *left = (size_t)4 << 30;
    for (auto &m : memory) *left -= m.second;
END
CALL(cuModuleLoadData, CUmodule *m, const void *image) HERE
    if (memcmp(image, "\x7f" "ELF", 4)) return (CUresult)200;
    *m = (CUmodule)library;
END
CALL(cuModuleUnload, CUmodule) END
CALL(cuModuleGetFunction, CUfunction *f, CUmodule m, const char *name) HERE
    auto *run = dlsym((void *)m, (std::string("run_") + name).c_str());
    auto *sizes = dlsym((void *)m, (std::string("sizes_") + name).c_str());
    if (!run || !sizes) return (CUresult)500;
    *f = (CUfunction) new Kernel{(void (*)(long long, int, void **))run, (const int *)sizes};  // as long as the process
END
CALL(cuLaunchKernel, CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,
     unsigned int bz, unsigned int shared, CUstream s, void **given, void **extra) HERE
    if (!gx || gy != 1 || gz != 1 || bx > 1024 || by != 1 || bz != 1 || shared || extra) return CUDA_ERROR_INVALID_VALUE;
    const Kernel kernel = *(Kernel *)f;
    std::vector<std::vector<char>> values;  // a launch takes its arguments' values along
    for (int k = 0; kernel.sizes[k]; ++k) values.emplace_back((char *)given[k], (char *)given[k] + kernel.sizes[k]);
    put(s, [=]() mutable {
        std::vector<void *> at;
        for (auto &v : values) at.push_back(v.data());
        kernel.run(gx, (int)bx, at.data());
    });
END
CALL(cuLaunchHostFunc, CUstream s, CUhostFn f, void *data) HERE put(s, [=] { f(data); }); END
CALL(cuEventCreate, CUevent *e, unsigned int) HERE *e = (CUevent) new Event; END
CALL(cuEventRecordWithFlags, CUevent e, CUstream s, unsigned int flags) HERE
    if (flags != 1 || !((Stream *)s)->capturing) return CUDA_ERROR_INVALID_VALUE;  // external marks are for captures alone
    put(s, [=] { ((Event *)e)->at = now; });
END
CALL(cuEventDestroy_v2, CUevent) END
CALL(cuEventRecord, CUevent e, CUstream s) HERE put(s, [=] { ((Event *)e)->at = now; }); END
CALL(cuStreamWaitEvent, CUstream, CUevent, unsigned int) HERE END
CALL(cuStreamBeginCapture_v2, CUstream s, CUstreamCaptureMode) HERE
    if (refuses) return (CUresult)900;
    ((Stream *)s)->capturing = true;
    ++capturing;
END
CALL(cuStreamEndCapture, CUstream s, CUgraph *g) HERE
    Stream *stream = (Stream *)s;
    stream->capturing = false;
    --capturing;
    auto *graph = new Graph;
    graph->ops.swap(stream->captured);
    *g = (CUgraph)graph;
END
CALL(cuGraphInstantiateWithFlags, CUgraphExec *x, CUgraph g, unsigned long long) HERE
    *x = (CUgraphExec) new Graph(*(Graph *)g);
    ++counts["graphs open"];
END
CALL(cuGraphLaunch, CUgraphExec x, CUstream s) HERE for (auto &op : ((Graph *)x)->ops) put(s, op); END
CALL(cuGraphExecDestroy, CUgraphExec x) HERE delete (Graph *)x; --counts["graphs open"]; END
CALL(cuGraphDestroy, CUgraph g) HERE delete (Graph *)g; END

#ifdef STANDIN_HEADER
#undef cuEventElapsedTime
#endif
extern "C" CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
    *ms = (float)(((Event *)b)->at - ((Event *)a)->at);
    return CUDA_SUCCESS;
}
