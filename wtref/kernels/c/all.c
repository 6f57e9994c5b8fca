#include "products.c"
#include "winograd.c"
#include "convolution.c"
#include "elementwise.c"
