/* What a program should not do, and callbacks that call back in. */
#include <fcntl.h>
#include <unistd.h>
#include "check.h"

static struct answer inner = ANSWER;
static void *ctx;

static void *made(void) {
    struct answer answer = ANSWER;
    void *made = SdsNewReliabilityManager(answered, &answer);
    await(&answer, 1);
    forget(&answer);
    return made;
}

/* Calls every function from inside a callback; what it asks for is answered when it has returned. */
static void calls_back_in(int ret, const char *msg, size_t len, void *data) {
    size_t wire_len;
    char *list = calloc(len + 1, 1);
    memcpy(list, msg, len);
    unsigned char *wire = bytes_of(list, &wire_len);
    free(list);
    CHECK(ret == RET_OK);
    CHECK(SdsUnwrapReceivedMessage(ctx, wire, wire_len, answered, &inner) == RET_OK);
    free(wire);
    CHECK(SdsMarkDependenciesMet(ctx, NULL, 0, "c", answered, &inner) == RET_OK);
    CHECK(SdsStartPeriodicTasks(ctx, answered, &inner) == RET_OK);
    CHECK(SdsResetReliabilityManager(ctx, answered, &inner) == RET_OK);
    SdsSetEventCallback(ctx, NULL, NULL);
    SdsSetRetrievalHintProvider(ctx, NULL, NULL);
    /* It cannot wait for itself. */
    CHECK(seabed_sds_wait(ctx, 1000000) == RET_ERR);
    CHECK(inner.count == 0);
    answered(ret, NULL, 0, data);
}

/* Fills the line of requests from inside a callback: it is refused rather than made to wait for itself. */
static void floods(int ret, const char *msg, size_t len, void *data) {
    (void)msg, (void)len;
    int accepted = 0, before = inner.count;
    while (SdsStartPeriodicTasks(ctx, answered, &inner) == RET_OK) accepted++;
    CHECK(accepted == 1024 && inner.count == before + 1 && inner.ret == RET_ERR);
    answered(ret, NULL, 0, data);
}

static void ends_its_context(int ret, const char *msg, size_t len, void *data) {
    (void)msg, (void)len;
    clean_up(ctx);
    CHECK(SdsResetReliabilityManager(ctx, answered, &inner) == RET_ERR);
    answered(ret, NULL, 0, data);
}

/* Holds the context's thread until it is let go. */
static struct answer held = ANSWER, let_go = ANSWER;

static void holds(int ret, const char *msg, size_t len, void *data) {
    answered(ret, msg, len, &held);
    await(&let_go, 1);
    answered(ret, msg, len, data);
}

struct cleanup {
    struct answer answer;
    pthread_barrier_t *together;
    int ret;
};

static void *cleans_up(void *data) {
    struct cleanup *cleanup = data;
    void *ending = ctx;
    if (cleanup->together != NULL) pthread_barrier_wait(cleanup->together);
    cleanup->ret = SdsCleanupReliabilityManager(ending, answered, &cleanup->answer);
    return NULL;
}

static int hint_calls;

static void hint_calls_back_in(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)data;
    hint_calls++;
    CHECK(SdsResetReliabilityManager(ctx, answered, &inner) == RET_OK);
    /* An empty hint is none, and its memory is freed all the same. */
    *hint = malloc(1);
    *len = 0;
}

static void hint_is_too_long(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)data;
    *hint = calloc(1, 2000);
    *len = 2000;
}

int main(void) {
    struct answer answer = ANSWER;

    ctx = made();
    CHECK(SdsWrapOutgoingMessage(ctx, "x", 1, "m1", "c", calls_back_in, &answer) == RET_OK);
    await(&answer, 1);
    await(&inner, 4);
    CHECK(inner.ret == RET_OK);
    CHECK(SdsResetReliabilityManager(ctx, floods, &answer) == RET_OK);
    await(&answer, 2);
    CHECK(seabed_sds_wait(ctx, 600000) == RET_OK);
    CHECK(inner.count == 4 + 1 + 1024);

    /* A hint provider may, too. */
    SdsSetRetrievalHintProvider(ctx, hint_calls_back_in, NULL);
    size_t len;
    int before = inner.count;
    free(wrapped(ctx, "x", "m1", "c", &len));
    free(wrapped(ctx, "x", "m2", "d", &len));
    CHECK(hint_calls == 0);
    free(wrapped(ctx, "x", "m2", "c", &len));
    CHECK(hint_calls == 1);
    await(&inner, before + 1);
    SdsSetRetrievalHintProvider(ctx, hint_is_too_long, NULL);
    free(wrapped(ctx, "x", "m1", "c", &len));
    ASK(&answer, SdsWrapOutgoingMessage, ctx, "x", 1, "m2", "c");
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing WRAP_MESSAGE request: reInvalidArgument") == 0);

    /* Cleaned up from inside one of its callbacks, and then once more. */
    int answers = answer.count;
    CHECK(SdsResetReliabilityManager(ctx, ends_its_context, &answer) == RET_OK);
    await(&answer, answers + 1);
    REFUSED(&answer, RET_ERR, "libsds error: the context is not one that lives", SdsCleanupReliabilityManager, ctx);

    /* Cleaned up by another thread while a callback runs: it waits for the callback, and what was in line is refused, each once. */
    ctx = made();
    struct answer first = ANSWER, refused = ANSWER;
    CHECK(SdsResetReliabilityManager(ctx, holds, &first) == RET_OK);
    await(&held, 1);
    for (int i = 0; i < 5; i++) CHECK(SdsResetReliabilityManager(ctx, answered, &refused) == RET_OK);
    CHECK(seabed_sds_wait(ctx, 0) == RET_ERR);
    pthread_t thread;
    struct cleanup cleanup = {.answer = ANSWER};
    CHECK(pthread_create(&thread, NULL, cleans_up, &cleanup) == 0);
    await(&refused, 5);
    CHECK(refused.ret == RET_ERR && strcmp(refused.msg, "libsds error: the context was cleaned up") == 0);
    CHECK(first.count == 0);
    answered(0, NULL, 0, &let_go);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(cleanup.answer.count == 1 && cleanup.answer.ret == cleanup.ret);
    /* A machine that is slow enough makes it give up waiting, and say so; then the callback returns a little later. */
    if (cleanup.ret == RET_OK) CHECK(first.count == 1);
    else CHECK(strstr(cleanup.answer.msg, "a callback has not returned") != NULL);
    await(&first, 1);
    CHECK(first.count == 1 && refused.count == 5);
    forget(&cleanup.answer);

    /* Two threads clean up at once: one of them does. */
    pthread_barrier_t together;
    CHECK(pthread_barrier_init(&together, NULL, 2) == 0);
    for (int i = 0; i < 50; i++) {
        ctx = made();
        struct cleanup one = {.answer = ANSWER, .together = &together}, other = one;
        CHECK(pthread_create(&thread, NULL, cleans_up, &one) == 0);
        cleans_up(&other);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(one.answer.count == 1 && other.answer.count == 1);
        CHECK(one.answer.ret == one.ret && other.answer.ret == other.ret);
        CHECK((one.ret == RET_OK) + (other.ret == RET_OK) == 1);
        forget(&one.answer);
        forget(&other.answer);
    }
    pthread_barrier_destroy(&together);

    /* What nobody can be told of is a line on standard error, when that has room. */
    int kept = dup(2), full = open("/dev/full", O_WRONLY);
    CHECK(kept >= 0 && full >= 0 && dup2(full, 2) == 2);
    void *none = SdsNewReliabilityManager(NULL, NULL);
    SdsSetEventCallback(NULL, answered, NULL);
    CHECK(dup2(kept, 2) == 2 && close(kept) == 0 && close(full) == 0);
    CHECK(none == NULL);

    forget(&answer);
    forget(&inner);
    forget(&held);
    forget(&let_go);
    forget(&first);
    forget(&refused);
    return 0;
}
