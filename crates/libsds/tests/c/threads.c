/* Eight threads on one context: exactly one callback for each call, and no message lost. */
#include "check.h"

static void *ctx;
static int calls;
static struct answer answer = ANSWER;
static int wrapped_count;

static void count(int ret, const char *msg, size_t len, void *data) {
    CHECK(ret == RET_OK && len > 0 && msg != NULL);
    CHECK(__atomic_exchange_n((char *)data, 1, __ATOMIC_SEQ_CST) == 0);
    __atomic_add_fetch(&wrapped_count, 1, __ATOMIC_SEQ_CST);
}

static void *sender(void *number) {
    char *marks = calloc(1, calls);
    for (int i = 0; i < calls; i++) {
        char id[32], channel[2] = {(char)('a' + i % 3), 0};
        snprintf(id, sizeof id, "%zu-%d", (size_t)number, i);
        CHECK(SdsWrapOutgoingMessage(ctx, id, strlen(id), id, channel, count, marks + i) == RET_OK);
    }
    return marks;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    calls = atoi(argv[1]);
    ctx = SdsNewReliabilityManager(answered, &answer);
    pthread_t threads[8];
    for (size_t i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], NULL, sender, (void *)i) == 0);
    void *marks[8];
    for (int i = 0; i < 8; i++) CHECK(pthread_join(threads[i], &marks[i]) == 0);
    CHECK(seabed_sds_wait(ctx, 600000) == RET_OK);
    CHECK(wrapped_count == 8 * calls);
    clean_up(ctx);
    for (int i = 0; i < 8; i++) free(marks[i]);
    forget(&answer);
    return 0;
}
