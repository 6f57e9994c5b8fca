/* Counts the instructions of the element-wise kernels for float, which it is linked to:  count_instructions KERNEL ...
 *
 * For each kernel it prints how many more instructions MANY rows take than FEW, so fixed costs do not count.  The kernel
 * runs in a child process that is stopped after each instruction.  Exits with NOT_ALLOWED where that cannot be done.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { C = 16, FEW = 16, MANY = 80, NOT_ALLOWED = 77 };

static float x[MANY * C], y[MANY * C], out[MANY * C], mean[C], scale[C], beta[C], slope[C], shift[C], sums[2 * C];

void moments(const float *, long, long, float *);
void norm_sums(const float *, const float *, const float *, const float *, const float *, long, long, float *);
void norm_forward(const float *, const float *, const float *, const float *, const float *, long, long, long, float *);
void norm_back(const float *, const float *, const float *, const float *, const float *, const float *, const float *,
               long, long, float *);
void relu(const float *, long, float *);
void relu_back(const float *, const float *, long, float *);
void add(const float *, const float *, long, long, float *);
void descend(float *, float *, const float *, long, float, float, float, long);

static void call(const char *kernel, long rows) {
    long n = rows * C;
#define IS(name) (strcmp(kernel, name) == 0)
    if (IS("moments")) moments(x, rows, C, sums);
    else if (IS("norm_sums")) norm_sums(y, x, mean, scale, NULL, rows, C, sums);
    else if (IS("norm_sums, ReLU")) norm_sums(y, x, mean, scale, beta, rows, C, sums);
    else if (IS("norm_forward")) norm_forward(x, mean, scale, beta, NULL, 1, rows, C, out);
    else if (IS("norm_forward, plus")) norm_forward(x, mean, scale, beta, y, 1, rows, C, out);
    else if (IS("norm_back")) norm_back(y, x, mean, scale, slope, shift, NULL, rows, C, out);
    else if (IS("norm_back, ReLU")) norm_back(y, x, mean, scale, slope, shift, beta, rows, C, out);
    else if (IS("relu")) relu(x, n, out);
    else if (IS("relu_back")) relu_back(x, y, n, out);
    else if (IS("add")) add(x, y, 0, n, out);
    else if (IS("add, ReLU")) add(x, y, 1, n, out);
    else if (IS("descend")) descend(x, y, out, n, 0.1f, 0.9f, 0.01f, 0);
    else if (IS("descend, Nesterov")) descend(x, y, out, n, 0.1f, 0.9f, 0.01f, 1);
    else abort();
}

static long instructions(const char *kernel, long rows) {
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0)) _exit(NOT_ALLOWED);
        raise(SIGSTOP);
        call(kernel, rows);
        _exit(0);
    }
    int status;
    long count = 0;
    for (waitpid(child, &status, 0); WIFSTOPPED(status); waitpid(child, &status, 0), count++)
        if (ptrace(PTRACE_SINGLESTEP, child, 0, 0)) kill(child, SIGKILL), exit(NOT_ALLOWED);
    if (status) exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    return count;
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        call(arguments[i], FEW);  /* what happens at a first call only does not have to be counted */
        printf("%ld\n", instructions(arguments[i], MANY) - instructions(arguments[i], FEW));
    }
    return 0;
}
