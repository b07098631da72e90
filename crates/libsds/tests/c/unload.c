/* The library is unloaded while a callback runs, and loaded again. */
#include <dlfcn.h>
#include "check.h"

static struct answer held = ANSWER, let_go = ANSWER, answer = ANSWER;

static void holds(int ret, const char *msg, size_t len, void *data) {
    (void)data;
    answered(ret, msg, len, &held);
    await(&let_go, 1);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    /* This program is not linked with it, so that nothing else keeps it. */
    CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) == NULL);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    void *(*make)(SdsCallBack, void *) = dlsym(library, "SdsNewReliabilityManager");
    int (*reset)(void *, SdsCallBack, void *) = dlsym(library, "SdsResetReliabilityManager");
    CHECK(make != NULL && reset != NULL);
    void *ctx = make(holds, NULL);
    await(&held, 1);
    CHECK(dlclose(library) == 0);
    answered(0, NULL, 0, &let_go);
    /* The context lives on: its thread has returned into the library. */
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    reset = dlsym(library, "SdsResetReliabilityManager");
    CHECK(reset(ctx, answered, &answer) == RET_OK);
    await(&answer, 1);
    CHECK(answer.ret == RET_OK);
    forget(&answer);
    forget(&held);
    forget(&let_go);
    return 0;
}
