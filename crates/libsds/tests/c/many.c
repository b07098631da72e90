/* As many managers as there may be, each with a message; one more is refused, and their places can be used again. */
#include "check.h"

static struct answer made = ANSWER;
static int sent;

static void count(int ret, const char *msg, size_t len, void *data) {
    (void)msg, (void)data;
    CHECK(ret == RET_OK && len > 0);
    __atomic_add_fetch(&sent, 1, __ATOMIC_SEQ_CST);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int managers = atoi(argv[1]);
    void **ctx = calloc(managers, sizeof *ctx);
    void *old = NULL;
    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < managers; i++) CHECK((ctx[i] = SdsNewReliabilityManager(answered, &made)) != NULL);
        await(&made, managers);
        CHECK(made.ret == RET_OK);
        if (managers == 1024) {
            CHECK(SdsNewReliabilityManager(answered, &made) == NULL);
            CHECK(made.count == managers + 1 && made.ret == RET_ERR);
            CHECK(strncmp(made.msg, "Error creating SDS FFI context: 1024 contexts live", 50) == 0);
            /* One that got as far as its store lets go of it: the next is told the same, and not that the store is in use. */
            for (int i = 0; i < 2; i++) {
                CHECK(seabed_sds_open("alice", "store", NULL, answered, &made) == NULL);
                CHECK(made.ret == SEABED_SDS_BACKPRESSURE && strncmp(made.msg, "1024 contexts live", 18) == 0);
            }
        }
        for (int i = 0; i < managers; i++)
            CHECK(SdsWrapOutgoingMessage(ctx[i], "x", 1, "m", "c", count, NULL) == RET_OK);
        for (int i = 0; i < managers; i++) CHECK(seabed_sds_wait(ctx[i], 600000) == RET_OK);
        CHECK(sent == round * managers);
        /* An old handle is nobody's, also when there are new ones. */
        CHECK(seabed_sds_wait(old, 0) == RET_ERR);
        for (int i = 0; i < managers; i++) clean_up(ctx[i]);

        old = ctx[0];
        made.count = 0;
    }
    free(ctx);
    forget(&made);
    return 0;
}
