/* Says what a channel holds. */
#include "check.h"

int main(int argc, char **argv) {
    struct answer answer = ANSWER;
    CHECK(argc == 2);
    void *ctx = seabed_sds_open("alice", argv[1], NULL, answered, &answer);
    CHECK(ctx != NULL);
    await(&answer, 1);
    ASK(&answer, seabed_sds_status, ctx, "room");
    CHECK(answer.ret == RET_OK);
    puts(answer.msg);
    clean_up(ctx);
    forget(&answer);
    return 0;
}
