/* The implementation alone, so that the host programs of tests/flow/test_kinds_host.py see what a
   second file of a program sees: declarations. */
#define LDCORN_IMPLEMENTATION
#include "../../ldcorn.h"
