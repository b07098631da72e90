#include <libsds.h>
#include <stdio.h>

static void show(int ret, const char *msg, size_t len, void *what) {
    printf("%s: %d %.*s\n", (char *)what, ret, len < 150 ? (int)len : 150, msg ? msg : "");
}

int main(void) {
    void *sds = seabed_sds_open("alice", "./alice", NULL, show, "open");
    if (sds == NULL) return 1;
    SdsWrapOutgoingMessage(sds, "hello", 5, "m1", "room", show, "send"); /* the callback gets the bytes to broadcast */
    seabed_sds_status(sds, "room", show, "status");
    seabed_sds_wait(sds, 60000);
    return SdsCleanupReliabilityManager(sds, show, "end");
}
