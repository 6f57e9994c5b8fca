/* OpenMP's threads.  They work on fixed, contiguous ranges, so results are the same bit for bit for the same number of
 * threads.  Where each thread sums over its own part of a batch, the number of threads changes the rounding.
 */
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
const int has_openmp = 1;
#else
const int has_openmp = 0;
#endif

static int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static int team_size(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* The number of threads to request.  A parallel region may get fewer, depending on OMP_THREAD_LIMIT and other variables, so
 * work is divided by team_size() inside the region.  A process forked from the owner has a single thread. */
static int threads = 1;
static pid_t owner;
int is_forked(void) { return getpid() != owner; }
static int thread_limit(void) { return is_forked() ? 1 : threads; }

/* Request n threads from now on; return the number granted. */
int use_threads(int n) {
    if (!owner) owner = getpid();
    threads = n;
#ifdef _OPENMP
    omp_set_dynamic(0);  /* else the number of threads, and the rounding, would depend on the load */
#endif
    int found = 1;
#pragma omp parallel num_threads(thread_limit())
#pragma omp single
    found = team_size();
    return threads = found;
}

/* This thread's range of `count` items. */
struct range { long first, last; };
static struct range my_range(long count) {
    return (struct range){count * thread_index() / team_size(), count * (thread_index() + 1) / team_size()};
}

/* Wait for the other threads of the team if `needed`. */
static void barrier(int needed) {
    if (needed) {
#pragma omp barrier
    }
}
