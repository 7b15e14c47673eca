/* The implementation alone, so that host programs see what a second file of a program sees:
   declarations. It is compiled once for all of them that have the same options. */
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"
