/* Functions of the program that end, or change, what has called them. */
#include "check.h"

static void *ctx;

static void make(void) {
    struct answer answer = ANSWER;
    ctx = SdsNewReliabilityManager(answered, &answer);
    await(&answer, 1);
    forget(&answer);
}

/* A context whose next message names three others, for which a provider is asked. */
static void make_with_history(void) {
    size_t len;
    make();
    free(wrapped(ctx, "x", "m1", "c", &len));
    free(wrapped(ctx, "x", "m2", "c", &len));
    free(wrapped(ctx, "x", "m3", "c", &len));
}

static int events, others;

static void counts_others(int ret, const char *msg, size_t len, void *data) {
    (void)msg, (void)len, (void)data;
    CHECK(ret == RET_OK);
    others++;
}

static void event_ends_its_context(int ret, const char *msg, size_t len, void *data) {
    (void)msg, (void)len, (void)data;
    CHECK(ret == RET_OK);
    events++;
    clean_up(ctx);
}

static void event_sets_another(int ret, const char *msg, size_t len, void *data) {
    (void)msg, (void)len, (void)data;
    CHECK(ret == RET_OK);
    events++;
    SdsSetEventCallback(ctx, counts_others, NULL);
}

/* Takes in m1, for which m2 waits: two events. */
static void two_events(SdsCallBack first, int others_after) {
    size_t len1, len2;
    make();
    unsigned char *m1 = wrapped(ctx, "one", "m1", "c", &len1), *m2 = wrapped(ctx, "two", "m2", "c", &len2);
    clean_up(ctx);
    make();
    struct answer answer = ANSWER;
    ASK(&answer, SdsUnwrapReceivedMessage, ctx, m2, len2);
    events = others = 0;
    SdsSetEventCallback(ctx, first, NULL);
    /* The answer comes last. */
    ASK(&answer, SdsUnwrapReceivedMessage, ctx, m1, len1);
    CHECK(answer.ret == RET_OK && strstr(answer.msg, "\"message\":[111,110,101]") != NULL);
    CHECK(events == 1 && others == others_after);
    free(m1), free(m2);
    forget(&answer);
}

static int hints;

static void counts_hints(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)hint, (void)len, (void)data;
    others++;
}

static void hint_ends_its_context(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)data;
    hints++;
    clean_up(ctx);
    *hint = strdup("last words");
    *len = 10;
}

static void hint_ends_asking(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)hint, (void)len, (void)data;
    hints++;
    SdsSetRetrievalHintProvider(ctx, NULL, NULL);
}

static void hint_sets_another(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)hint, (void)len, (void)data;
    hints++;
    SdsSetRetrievalHintProvider(ctx, counts_hints, NULL);
}

static void asks(SdsRetrievalHintProvider first, int others_after) {
    make_with_history();
    struct answer answer = ANSWER;
    hints = others = 0;
    SdsSetRetrievalHintProvider(ctx, first, NULL);
    ASK(&answer, SdsWrapOutgoingMessage, ctx, "x", 1, "m4", "c");
    CHECK(answer.ret == RET_OK && answer.len > 0);
    CHECK(hints == 1 && others == others_after);
    forget(&answer);
}

static struct answer entered = ANSWER, let_go = ANSWER;

static void holds(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)hint, (void)len, (void)data;
    answered(0, NULL, 0, &entered);
    await(&let_go, 1);
}

int main(void) {
    two_events(event_sets_another, 1);
    clean_up(ctx);
    two_events(event_ends_its_context, 0);

    asks(hint_ends_asking, 0);
    clean_up(ctx);
    asks(hint_sets_another, 2);
    clean_up(ctx);
    asks(hint_ends_its_context, 0);

    /* One that was taken away while it runs is not asked again. */
    make_with_history();
    struct answer answer = ANSWER;
    SdsSetRetrievalHintProvider(ctx, holds, NULL);
    CHECK(SdsWrapOutgoingMessage(ctx, "x", 1, "m4", "c", answered, &answer) == RET_OK);
    await(&entered, 1);
    SdsSetRetrievalHintProvider(ctx, NULL, NULL);
    answered(0, NULL, 0, &let_go);
    await(&answer, 1);
    CHECK(answer.ret == RET_OK && entered.count == 1);
    clean_up(ctx);
    forget(&answer);
    forget(&entered);
    forget(&let_go);
    return 0;
}
