/* A callback that never returns holds up its own context, and nobody else; the program ends all the same. */
#include "check.h"

static struct answer stuck = ANSWER;

static void never_returns(int ret, const char *msg, size_t len, void *data) {
    (void)data;
    answered(ret, msg, len, &stuck);
    for (;;) await(&stuck, 1 << 30);
}

static struct answer entered = ANSWER, let_go = ANSWER;

static void holds(const char *id, char **hint, size_t *len, void *data) {
    (void)id, (void)hint, (void)len, (void)data;
    answered(0, NULL, 0, &entered);
    await(&let_go, 1);
}

int main(void) {
    struct answer answer = ANSWER, line = ANSWER;
    void *held = SdsNewReliabilityManager(answered, &answer);
    void *free_one = SdsNewReliabilityManager(answered, &answer);
    await(&answer, 2);
    CHECK(SdsResetReliabilityManager(held, never_returns, NULL) == RET_OK);
    await(&stuck, 1);
    for (int i = 0; i < 10; i++) CHECK(SdsResetReliabilityManager(held, answered, &line) == RET_OK);
    /* Others are made, used and cleaned up. */
    size_t len;
    free(wrapped(free_one, "x", "m1", "c", &len));
    void *third = SdsNewReliabilityManager(answered, &answer);
    await(&answer, 3);
    free(wrapped(third, "x", "m1", "c", &len));
    clean_up(third);
    /* It cannot be cleaned up well; what was in line is refused, and it is gone. */
    CHECK(line.count == 0);
    REFUSED(&answer, RET_ERR, "libsds error: a callback has not returned; the context ends when it does",
            SdsCleanupReliabilityManager, held);
    CHECK(line.count == 10 && line.ret == RET_ERR);
    CHECK(SdsResetReliabilityManager(held, answered, &answer) == RET_ERR);
    /* One that returns after all was the last: the request is answered, and nothing else is asked. */
    void *asked = SdsNewReliabilityManager(answered, &answer);
    for (const char *const *id = (const char *const[]){"m1", "m2", "m3", NULL}; *id != NULL; id++)
        free(wrapped(asked, "x", *id, "c", &len));
    SdsSetRetrievalHintProvider(asked, holds, NULL);
    struct answer late = ANSWER;
    CHECK(SdsWrapOutgoingMessage(asked, "x", 1, "m4", "c", answered, &late) == RET_OK);
    await(&entered, 1);
    REFUSED(&answer, RET_ERR, "libsds error: a callback has not returned; the context ends when it does",
            SdsCleanupReliabilityManager, asked);
    answered(0, NULL, 0, &let_go);
    await(&late, 1);
    CHECK(late.ret == RET_OK && late.count == 1 && entered.count == 1);
    clean_up(free_one);
    forget(&late);
    forget(&entered);
    forget(&let_go);
    forget(&answer);
    forget(&line);
    return 0;
}
