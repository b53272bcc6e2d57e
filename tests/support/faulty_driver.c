/* Preloaded, this ends the process in OpenCL's call that builds a program for as long as the file is there that
   TRITON_FPGA_TEST_FAULT names: a driver whose compiler aborts; or never returns, when the file's text has "hang" in
   it (it sleeps) or "spin" (it is busy). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
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
    FILE *file = fault != NULL ? fopen(fault, "r") : NULL;
    if (file != NULL) {
        char what[32] = "";
        fread(what, 1, sizeof what - 1, file);
        fclose(file);
        while (strstr(what, "hang") != NULL) {
            pause();
        }
        while (strstr(what, "spin") != NULL) {
            getppid();
        }
        abort();
    }
    dl_iterate_phdr(find, &build);
    return build(program, count, devices, options, notify, data);
}
