/* Kernels that read each element once or twice. */

#ifdef _OPENMP
#include <omp.h>
#endif

/* How many threads a parallel region of `wanted` gets: 1 where the library was built without OpenMP. */
int tropism_team(int wanted) {
    int got = 1;
#ifdef _OPENMP
#pragma omp parallel num_threads(wanted)
    {
#pragma omp single
        got = omp_get_num_threads();
    }
#else
    (void)wanted;
#endif
    return got;
}
