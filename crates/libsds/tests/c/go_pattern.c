/* How the Go bindings use the library, from their description: for each call a structure in C memory with a wait group in it; a wait
 * without an end; and the result is read when the callback has long returned, while other calls go on. */
#include "check.h"

#define CONTEXTS 4

struct request {
    int ret;
    const char *msg;
    size_t len;
    struct answer *group;
};

/* WaitGroup.Done: a second one would panic in Go. */
static void done(int ret, const char *msg, size_t len, void *data) {
    struct request *request = data;
    request->ret = ret;
    request->msg = msg;
    request->len = len;
    answered(RET_OK, NULL, 0, request->group);
}

static void wait(struct request *request) {
    await(request->group, 1);
    CHECK(request->group->count == 1);
}

/* The data of events and hints is the context. */
static void *contexts[CONTEXTS];
static int events_count;

static void on_event(int ret, const char *msg, size_t len, void *ctx) {
    int known = 0;
    for (int i = 0; i < CONTEXTS; i++) known |= contexts[i] == ctx;
    CHECK(ret == RET_OK && known && len > 0 && msg[0] == '{');
    __atomic_add_fetch(&events_count, 1, __ATOMIC_SEQ_CST);
}

static void on_hint(const char *id, char **hint, size_t *len, void *ctx) {
    CHECK(ctx != NULL && id != NULL);
    *hint = malloc(3);
    memcpy(*hint, "abc", 3);
    *len = 3;
}

/* A goroutine: wraps on its context and unwraps what it has wrapped; the texts are parsed after the callbacks have returned. */
static void *goroutine(void *ctx) {
    for (int i = 0; i < 5; i++) {
        char id[32], text[32];
        snprintf(id, sizeof id, "%p-%d-%p", ctx, i, (void *)&i);
        snprintf(text, sizeof text, "text %d", i);
        struct answer group = ANSWER;
        struct request wrap = {.group = &group};
        SdsWrapOutgoingMessage(ctx, text, strlen(text), id, "channel", done, &wrap);
        wait(&wrap);
        CHECK(wrap.ret == RET_OK && wrap.len > 0);
        char *list = malloc(wrap.len + 1);
        memcpy(list, wrap.msg, wrap.len);
        list[wrap.len] = 0;
        size_t len;
        unsigned char *wire = bytes_of(list, &len);
        free(list);
        forget(&group);

        struct answer second = ANSWER;
        struct request unwrap = {.group = &second};
        SdsUnwrapReceivedMessage(ctx, wire, len, done, &unwrap);
        free(wire);
        wait(&unwrap);
        CHECK(unwrap.ret == RET_OK && unwrap.len > 12 && memcmp(unwrap.msg, "{\"message\":[", 12) == 0);
        forget(&second);
    }
    return NULL;
}

/* A result is read while the next one, as large, is handed over: there is no room for both among those that are kept by bytes. */
static void *large_context;
static struct request large;

static void reads_the_one_before(int ret, const char *msg, size_t len, void *data) {
    CHECK(ret == RET_OK && large.ret == RET_OK && large.len > 4000000 && len > 4000000);
    CHECK(strlen(large.msg) == large.len && strncmp(large.msg, "10,", 3) == 0);
    done(ret, msg, len, data);
}

static void large_results(void) {
    struct answer group = ANSWER, second = ANSWER, created = ANSWER;
    struct request create = {.group = &created}, next = {.group = &second};
    large_context = SdsNewReliabilityManager(done, &create);
    wait(&create);
    size_t len = 1024 * 1024;
    char *content = malloc(len);
    memset(content, 0xff, len);
    large.group = &group;
    SdsWrapOutgoingMessage(large_context, content, len, "m1", "channel", done, &large);
    wait(&large);
    SdsWrapOutgoingMessage(large_context, content, len, "m2", "channel", reads_the_one_before, &next);
    wait(&next);
    free(content);
    clean_up(large_context);
    forget(&group);
    forget(&second);
    forget(&created);
}

int main(void) {
    large_results();
    pthread_t threads[CONTEXTS][4];
    for (int i = 0; i < CONTEXTS; i++) {
        struct answer group = ANSWER;
        struct request create = {.group = &group};
        contexts[i] = SdsNewReliabilityManager(done, &create);
        wait(&create);
        CHECK(contexts[i] != NULL && create.ret == RET_OK);
        /* Handles are in a map of pointers, whose runtime is particular about small ones. */
        CHECK((size_t)contexts[i] > 4096);
        SdsSetEventCallback(contexts[i], on_event, contexts[i]);
        SdsSetRetrievalHintProvider(contexts[i], on_hint, contexts[i]);
        forget(&group);
    }
    for (int i = 0; i < CONTEXTS; i++)
        for (int j = 0; j < 4; j++) CHECK(pthread_create(&threads[i][j], NULL, goroutine, contexts[i]) == 0);
    for (int i = 0; i < CONTEXTS; i++)
        for (int j = 0; j < 4; j++) CHECK(pthread_join(threads[i][j], NULL) == 0);

    /* A call on a context that is no more, whose result is waited for without an end. */
    for (int i = 0; i < CONTEXTS; i++) clean_up(contexts[i]);
    struct answer group = ANSWER;
    struct request late = {.group = &group};
    SdsWrapOutgoingMessage(contexts[0], "x", 1, "m", "c", done, &late);
    wait(&late);
    CHECK(late.ret == RET_ERR);
    forget(&group);
    return 0;
}
