/* Says the name of each message when it was sent, until it is killed; begins after the last one that it was sure of before. */
#include "check.h"

int main(int argc, char **argv) {
    struct answer answer = ANSWER;
    CHECK(argc == 3);
    void *ctx = seabed_sds_open("alice", argv[1], NULL, answered, &answer);
    CHECK(ctx != NULL);
    await(&answer, 1);
    for (int number = atoi(argv[2]);; number++) {
        char id[32];
        snprintf(id, sizeof id, "m%d", number);
        size_t len;
        free(wrapped(ctx, id, id, "room", &len));
        printf("%s\n", id);
        fflush(stdout);
    }
}
