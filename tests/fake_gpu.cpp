/* CUDA's libraries for one GPU that does not exist: memory, streams, events and graphs on the host.

   A kernel is a shared library that fake_gpu.py has compiled with cuda_double.h, and its "cubin" is the path of that library.
   Work is done when it is submitted, or recorded while its stream is captured.  As in CUDA, waiting for a captured stream
   is an error that makes the capture invalid, and so is work on the default stream.  */

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <string>
#include <vector>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500, LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_IMPLICIT = 906
};
enum { PROCESSORS = 4, VERSION = CUDA_MAJOR * 1000 };
static const size_t MEMORY = 8ul << 30;

using Work = std::function<const char *()>;  // returns the reason why it failed, or null
using Graph = std::vector<Work>;
struct Event { std::chrono::steady_clock::time_point time; };
struct Size { unsigned x, y, z; };
using Bind = void (*)(const Size &grid, const Size &block, int shared, void **arguments, Work &work);
struct Kernel { std::string name; Bind bind; int registers, shared; };
struct Program { std::string source, cubin, log; };

static std::map<std::string, long> launches;  // by kernel, and of graphs
static void *captured;  // the stream that is being captured
static bool capture_valid;
static Graph recording;
static int last_error;
static void (*compile)(const char *source, const char *options, char *path, char *log);

static int error(int code)
{
    return last_error = code;
}

static int submit(void *stream, const Work &work)
{
    if (captured && stream == captured) {
        recording.push_back(work);
        return SUCCESS;
    }
    if (captured && !stream) {
        capture_valid = false;
        return error(CAPTURE_IMPLICIT);
    }
    if (const char *reason = work()) {
        fprintf(stderr, "the fake GPU: %s\n", reason);
        return error(LAUNCH_FAILED);
    }
    return SUCCESS;
}

/* Wait for a stream, or for all if it is null; all work that is not recorded has been done.  */
static int wait(void *stream)
{
    if (!captured || (stream && stream != captured))
        return SUCCESS;
    capture_valid = false;
    return error(CAPTURE_UNSUPPORTED);
}

static int allocate(void **memory, size_t bytes)
{
    *memory = bytes > MEMORY ? nullptr : aligned_alloc(512, (bytes + 511) / 512 * 512);
    return *memory ? SUCCESS : error(OUT_OF_MEMORY);
}

/* C = alpha A B + beta C in a stream, matrices by columns; A and B may be transposed.  */
template <class T> static int multiply(void *stream, bool a_transposed, bool b_transposed, int m, int n, int k, const void *alpha,
                                       const void *a, int a_stride, const void *b, int b_stride, const void *beta, void *c, int c_stride)
{
    const T factor = *(const T *) alpha, kept = *(const T *) beta;
    return submit(stream, [=]() -> const char * {
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                T sum = 0, &to = ((T *) c)[i + (size_t) j * c_stride];
                for (int l = 0; l < k; l++)
                    sum += ((const T *) a)[a_transposed ? l + (size_t) i * a_stride : i + (size_t) l * a_stride]
                           * ((const T *) b)[b_transposed ? j + (size_t) l * b_stride : l + (size_t) j * b_stride];
                to = factor * sum + (kept ? kept * to : 0);
            }
        return nullptr;
    });
}

extern "C" {

/* What fake_gpu.py calls.  */

void fake_gpu_compiler(decltype(compile) function) { compile = function; }
long fake_gpu_launches(const char *name) { return launches[name]; }
const char *fake_gpu_names()
{
    static std::string names;
    names.clear();
    for (const auto &each : launches)
        names += each.first + "\n";
    return names.c_str();
}
int fake_gpu_missing(const char *name)
{
    fprintf(stderr, "the fake GPU has no %s\n", name);
    return NOT_SUPPORTED;
}

/* The runtime's API: devices and memory.  */

int cudaGetDeviceCount(int *count) { *count = 1; return SUCCESS; }
int cudaGetDevice(int *device) { *device = 0; return SUCCESS; }
int cudaSetDevice(int device) { return device ? error(INVALID_DEVICE) : SUCCESS; }
int cudaDriverGetVersion(int *version) { *version = VERSION; return SUCCESS; }
int cudaRuntimeGetVersion(int *version) { *version = VERSION; return SUCCESS; }
int cudaDeviceSynchronize() { return wait(nullptr); }
int cudaGetLastError() { int code = last_error; last_error = SUCCESS; return code; }
int cudaPeekAtLastError() { return last_error; }
int cudaProfilerStart() { return SUCCESS; }
int cudaProfilerStop() { return SUCCESS; }

int cudaDeviceGetAttribute(int *value, int attribute, int)
{
    static const std::map<int, int> values = {  // those of an H100, numbered as in driver_types.h
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 0x7FFFFFFF}, {6, 65535}, {7, 65535}, {8, 48 << 10}, {10, 32},
        {16, PROCESSORS}, {39, 2048}, {75, 9}, {76, 0}, {81, 228 << 10}, {82, 65536}, {97, 227 << 10},
    };
    const auto found = values.find(attribute);
    *value = found == values.end() ? 0 : found->second;
    return SUCCESS;
}

/* The first members of cudaDeviceProp, which has 1,032 bytes in CUDA 12.  */
struct Properties {
    char name[256], uuid[16], luid[8];
    unsigned mask;
    size_t memory, shared;
};

int cudaGetDeviceProperties_v2(Properties *properties, int)
{
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "a fake GPU");
    properties->memory = MEMORY;
    return SUCCESS;
}
int cudaGetDeviceProperties(Properties *properties, int device) { return cudaGetDeviceProperties_v2(properties, device); }
int cudaDeviceGetPCIBusId(char *id, int size, int) { snprintf(id, size, "0000:00:00.0"); return SUCCESS; }

int cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes); }
int cudaFree(void *memory) { free(memory); return SUCCESS; }
int cudaHostAlloc(void **memory, size_t bytes, unsigned) { return allocate(memory, bytes); }
int cudaFreeHost(void *memory) { free(memory); return SUCCESS; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = MEMORY; return SUCCESS; }
int cudaPointerGetAttributes(void *attributes, const void *) { memset(attributes, 0, 24); return SUCCESS; }  // memory of the host

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, void *stream)
{
    return submit(stream, [=] { memmove(to, from, bytes); return nullptr; });
}
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind)
{
    const int code = wait(nullptr);
    return code ? code : cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream)
{
    return submit(stream, [=] { memset(to, value, bytes); return nullptr; });
}
int cudaMemset(void *to, int value, size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }

/* Streams, events and graphs.  */

int cudaStreamCreate(void **stream) { *stream = malloc(1); return SUCCESS; }
int cudaStreamCreateWithFlags(void **stream, unsigned) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned, int) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void *stream) { free(stream); return SUCCESS; }
int cudaStreamSynchronize(void *stream) { return wait(stream); }
int cudaStreamQuery(void *stream) { return wait(stream); }
int cudaStreamWaitEvent(void *, Event *, unsigned) { return SUCCESS; }
int cudaStreamIsCapturing(void *stream, int *status)
{
    *status = !captured || stream != captured ? 0 : capture_valid ? 1 : 2;
    return SUCCESS;
}
int cudaStreamBeginCapture(void *stream, int)
{
    if (captured || !stream)
        return error(CAPTURE_UNSUPPORTED);
    captured = stream, capture_valid = true, recording.clear();
    return SUCCESS;
}
int cudaStreamEndCapture(void *stream, Graph **graph)
{
    if (!captured || stream != captured)
        return error(INVALID_VALUE);
    captured = nullptr, *graph = capture_valid ? new Graph(recording) : nullptr;
    return capture_valid ? SUCCESS : error(CAPTURE_INVALIDATED);
}
int cudaGraphInstantiate(Graph **executable, Graph *graph) { *executable = new Graph(*graph); return SUCCESS; }
int cudaGraphUpload(Graph *, void *) { return SUCCESS; }
int cudaGraphDestroy(Graph *graph) { delete graph; return SUCCESS; }
int cudaGraphExecDestroy(Graph *graph) { delete graph; return SUCCESS; }
int cudaGraphLaunch(Graph *graph, void *stream)
{
    launches["graph"]++;
    for (const Work &work : *graph)
        if (const int code = submit(stream, work))
            return code;
    return SUCCESS;
}

int cudaEventCreateWithFlags(Event **event, unsigned) { *event = new Event; return SUCCESS; }
int cudaEventCreate(Event **event) { *event = new Event; return SUCCESS; }
int cudaEventDestroy(Event *event) { delete event; return SUCCESS; }
int cudaEventRecord(Event *event, void *) { event->time = std::chrono::steady_clock::now(); return SUCCESS; }
int cudaEventSynchronize(Event *) { return SUCCESS; }
int cudaEventQuery(Event *) { return SUCCESS; }
int cudaEventElapsedTime(float *milliseconds, Event *first, Event *second)
{
    *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
    return SUCCESS;
}

/* The driver's API: modules and launches.  */

int cuGetErrorName(int, const char **text) { *text = "an error of the fake GPU"; return SUCCESS; }
int cuGetErrorString(int code, const char **text)
{
    static std::string description;
    description = "number " + std::to_string(code) + " of CUDA";
    *text = description.c_str();
    return SUCCESS;
}
int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int *version) { *version = VERSION; return SUCCESS; }
int cuCtxGetCurrent(const void **context) { *context = &captured; return SUCCESS; }
int cuCtxGetDevice(int *device) { *device = 0; return SUCCESS; }
int cuModuleLoadData(void **module, const char *path)
{
    *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return *module ? SUCCESS : NOT_FOUND;
}
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(Kernel **kernel, void *module, const char *name)
{
    const auto bind = (Bind) dlsym(module, ("bind_" + std::string(name)).c_str());
    if (!bind)
        return NOT_FOUND;
    *kernel = new Kernel{name, bind, 0, 48 << 10};
    return SUCCESS;
}
int cuFuncGetAttribute(int *value, int attribute, Kernel *kernel)
{
    *value = attribute == 0 ? 1024 : attribute == 8 ? kernel->shared : 0;  // the most threads; the most dynamic shared memory
    return SUCCESS;
}
int cuFuncSetAttribute(Kernel *kernel, int attribute, int value)
{
    if (attribute == 8)
        kernel->shared = value;
    return SUCCESS;
}
int cuLaunchKernel(Kernel *kernel, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y, unsigned threads_z,
                   unsigned shared, void *stream, void **arguments, void **)
{
    const Size grid = {x, y, z}, block = {threads_x, threads_y, threads_z};
    const unsigned threads = threads_x * threads_y * threads_z;
    if (!x || !y || !z || y > 65535 || z > 65535 || !threads || threads > 1024 || shared > kernel->shared)
        return INVALID_VALUE;
    launches[kernel->name]++;
    Work work;
    kernel->bind(grid, block, shared, arguments, work);
    return submit(stream, work);
}

/* NVRTC.  */

int nvrtcVersion(int *major, int *minor) { *major = CUDA_MAJOR, *minor = 0; return SUCCESS; }
int nvrtcCreateProgram(Program **program, const char *source, const char *, int, const char **, const char **)
{
    *program = new Program{source};
    return SUCCESS;
}
int nvrtcDestroyProgram(Program **program) { delete *program; *program = nullptr; return SUCCESS; }
int nvrtcCompileProgram(Program *program, int count, const char **options)
{
    static char path[4096], log[16384];
    std::string lines;
    for (int i = 0; i < count; i++)
        lines += std::string(options[i]) + "\n";
    path[0] = log[0] = 0;
    compile(program->source.c_str(), lines.c_str(), path, log);
    program->cubin = path, program->log = log;
    return path[0] ? SUCCESS : 6;  // NVRTC_ERROR_COMPILATION
}
int nvrtcGetCUBINSize(Program *program, size_t *size) { *size = program->cubin.size() + 1; return SUCCESS; }
int nvrtcGetCUBIN(Program *program, char *cubin) { strcpy(cubin, program->cubin.c_str()); return SUCCESS; }
int nvrtcGetPTXSize(Program *program, size_t *size) { return nvrtcGetCUBINSize(program, size); }
int nvrtcGetPTX(Program *program, char *ptx) { return nvrtcGetCUBIN(program, ptx); }
int nvrtcGetProgramLogSize(Program *program, size_t *size) { *size = program->log.size() + 1; return SUCCESS; }
int nvrtcGetProgramLog(Program *program, char *log) { strcpy(log, program->log.c_str()); return SUCCESS; }
const char *nvrtcGetErrorString(int) { return "the fake NVRTC cannot compile this"; }

/* cuBLAS.  */

int cublasCreate_v2(void ***handle) { *handle = new void *(); return SUCCESS; }  // a handle holds its stream
int cublasDestroy_v2(void **handle) { delete handle; return SUCCESS; }
int cublasSetStream_v2(void **handle, void *stream) { *handle = stream; return SUCCESS; }
int cublasSetMathMode(void *, int) { return SUCCESS; }
int cublasGetMathMode(void *, int *mode) { *mode = 0; return SUCCESS; }
int cublasSetPointerMode_v2(void *, int) { return SUCCESS; }
int cublasGetPointerMode_v2(void *, int *mode) { *mode = 0; return SUCCESS; }
int cublasGemmEx(void **handle, int a_transposed, int b_transposed, int m, int n, int k, const void *alpha, const void *a, int a_type,
                 int a_stride, const void *b, int b_type, int b_stride, const void *beta, void *c, int c_type, int c_stride, int, int)
{
    if (a_type != b_type || a_type != c_type || a_type > 1)  // CUDA_R_32F, CUDA_R_64F
        return 15;  // CUBLAS_STATUS_NOT_SUPPORTED
    return (a_type ? multiply<double> : multiply<float>)(
        *handle, a_transposed, b_transposed, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

}  // extern "C"
