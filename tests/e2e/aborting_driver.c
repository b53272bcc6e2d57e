/* Preloaded, this ends the process in OpenCL's call that builds a program for as long as the file is there that
   TRITON_FPGA_TEST_FAULT names: a driver whose compiler aborts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int build_program(void *, unsigned, void *, const char *, void *, void *);

/* pyopencl brings OpenCL along and loads it for itself alone, out of RTLD_NEXT's sight. */
static int find(struct dl_phdr_info *object, size_t size, void *found) {
    if (strstr(object->dlpi_name, "libOpenCL") == NULL) {
        return 0;
    }
    *(void **)found = dlsym(dlopen(object->dlpi_name, RTLD_LAZY | RTLD_NOLOAD), "clBuildProgram");
    return 1;
}

int clBuildProgram(void *program, unsigned count, void *devices, const char *options, void *notify, void *data) {
    const char *fault = getenv("TRITON_FPGA_TEST_FAULT");
    build_program *build = NULL;
    if (fault != NULL && access(fault, F_OK) == 0) {
        abort();
    }
    dl_iterate_phdr(find, &build);
    return build(program, count, devices, options, notify, data);
}
