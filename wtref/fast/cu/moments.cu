/* Mean and variance of numbers that are distributed over threads: each thread accumulates its own, then they are joined.  */

/* Mean and sum of squared deviations from it (Chan, Golub and LeVeque, 1979).  */
struct Moments {
    REAL count, mean, squares;

    __device__ void join(const Moments &other)
    {
        const REAL total = count + other.count;
        if (other.count == 0)
            return;
        const REAL between = other.mean - mean, part = other.count / total;
        mean += between * part;
        squares += other.squares + between * between * count * part;
        count = total;
    }
};

/* Sums of differences to the first number, so that a mean far from 0 costs no precision.  */
struct Accumulator {
    REAL first, sum = 0, squares = 0, count = 0;

    __device__ void add(REAL x)
    {
        first = count == 0 ? x : first;
        const REAL far = x - first;
        sum += far, squares += far * far, count += 1;
    }
    __device__ Moments moments() const
    {
        if (count == 0)
            return {};
        const REAL far = sum / count, rest = squares - sum * far;
        return {count, first + far, rest < 0 ? 0 : rest};
    }
};
