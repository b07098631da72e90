/* A callback that never returns holds up its own context, and nobody else; the program ends all the same. */
#include "check.h"

static struct answer stuck = ANSWER;

static void never_returns(int ret, const char *msg, size_t len, void *data) {
    (void)data;
    answered(ret, msg, len, &stuck);
    for (;;) await(&stuck, 1 << 30);
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
    clean_up(free_one);
    forget(&answer);
    forget(&line);
    return 0;
}
