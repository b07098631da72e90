/* Contexts with a participant, a store and a configuration: what is there after a restart, and what they tell more. */
#include <unistd.h>
#include "check.h"

#define SLOW "{\"channel\":{\"resend_interval_ms\":3600000}}"

static void *opened(const char *participant, const char *path, const char *config) {
    struct answer answer = ANSWER;
    void *ctx = seabed_sds_open(participant, path, config, answered, &answer);
    CHECK(ctx != NULL);
    await(&answer, 1);
    CHECK(answer.ret == RET_OK && answer.len == 0);
    forget(&answer);
    return ctx;
}

static void refused(const char *participant, const char *path, const char *config, int ret, const char *text) {
    struct answer answer = ANSWER;
    CHECK(seabed_sds_open(participant, path, config, answered, &answer) == NULL);
    CHECK(answer.count == 1 && answer.ret == ret && strstr(answer.msg, text) != NULL);
    forget(&answer);
}

static void what_cannot_be_opened(void) {
    char path[4200];
    memset(path, 'x', sizeof path);
    path[4199] = 0;
    CHECK(seabed_sds_open("alice", NULL, NULL, NULL, NULL) == NULL);
    refused("alice", "", NULL, SEABED_SDS_INVALID_ARGUMENT, "the root of the store is empty");
    refused("alice", path, NULL, SEABED_SDS_INVALID_ARGUMENT, "longer than 4096 bytes");
    refused(path, NULL, NULL, SEABED_SDS_INVALID_ARGUMENT, "longer than 1024 bytes");
    refused("alice", "/proc/nowhere", NULL, SEABED_SDS_PERSISTENCE, "/proc/nowhere");
    refused("alice", NULL, "{", SEABED_SDS_INVALID_ARGUMENT, "the configuration does not read");
    refused("alice", NULL, "{\"channels\":{}}", SEABED_SDS_INVALID_ARGUMENT, "channels");
    refused("alice", NULL, "{\"channel\":{\"resend_factor\":0}}", SEABED_SDS_INVALID_ARGUMENT, "the resend factor is zero");
    refused("alice", NULL, "{\"profile\":\"nim\",\"dialect\":\"spec\"}", SEABED_SDS_INVALID_ARGUMENT, "profile nim");
    /* What cannot be opened makes no files, and does not keep the path. */
    refused("alice", "never", "{\"channel\":{\"resend_factor\":0}}", SEABED_SDS_INVALID_ARGUMENT, "the resend factor is zero");
    CHECK(access("never", F_OK) != 0);
    void *ctx = opened("alice", "twice", NULL);
    refused("bob", "twice", NULL, SEABED_SDS_BUSY, "in use");
    clean_up(ctx);
    /* When the cleanup has returned the path is free. */
    clean_up(opened("alice", "twice", NULL));
}

static void a_restart_forgets_nothing(void) {
    struct answer answer = ANSWER;
    size_t len, late_len;
    void *alice = opened("alice", "alice", SLOW), *bob = opened("bob", "bob", SLOW);
    unsigned char *m1 = wrapped(alice, "one", "m1", "room", &len);
    unsigned char *m2 = wrapped(alice, "two", "m2", "room", &late_len);
    size_t other_len;
    unsigned char *other = wrapped(alice, "else", "e1", "other", &other_len);
    /* The second waits for the first; its content is kept. */
    ASK(&answer, SdsUnwrapReceivedMessage, bob, m2, late_len);
    CHECK(strstr(answer.msg, "\"missingDeps\":[{\"messageId\":\"m1\",") != NULL);
    CHECK(strstr(answer.msg, ",\"messageId\":\"m2\",\"senderId\":\"alice\",\"reception\":\"buffered\"}") != NULL);
    clean_up(alice);
    clean_up(bob);

    struct events events = EVENTS;
    alice = opened("alice", "alice", SLOW), bob = opened("bob", "bob", SLOW);
    SdsSetEventCallback(bob, happened, &events);
    ASK(&answer, seabed_sds_channels, alice);
    CHECK(answer.ret == RET_OK && strcmp(answer.msg, "[\"other\",\"room\"]") == 0);
    ASK(&answer, seabed_sds_status, alice, "room");
    CHECK(answer.ret == RET_OK && strstr(answer.msg, "\"log\":2,\"unacknowledged\":[\"m1\",\"m2\"],\"waiting\":[],\"missing\":[],") != NULL);
    ASK(&answer, seabed_sds_status, bob, "room");
    CHECK(strstr(answer.msg, "\"log\":0,\"unacknowledged\":[],\"waiting\":[\"m2\"],\"missing\":[\"m1\"],") != NULL);
    ASK(&answer, SdsUnwrapReceivedMessage, bob, m1, len);
    CHECK(strstr(answer.msg, "\"reception\":\"delivered\"") != NULL);
    /* What waited before the restart comes with its content, after what it waited for. */
    const char *first = strstr(events.lines, "{\"messageId\":\"m1\",\"channelId\":\"room\",\"senderId\":\"alice\",\"message\":\"b25l\",\"gap\":false,\"eventType\":\"message_ready\"}");
    const char *second = strstr(events.lines, "{\"messageId\":\"m2\",\"channelId\":\"room\",\"senderId\":\"alice\",\"message\":\"dHdv\",\"gap\":false,\"eventType\":\"message_ready\"}");
    CHECK(first != NULL && second != NULL && first < second);
    clean_up(bob);

    /* Whether a message was received is known after a restart. */
    bob = opened("bob", "bob", SLOW);
    ASK(&answer, SdsUnwrapReceivedMessage, bob, m1, len);
    CHECK(answer.ret == RET_OK && strstr(answer.msg, "\"message\":[111,110,101]") != NULL && strstr(answer.msg, "\"reception\":\"duplicate\"") != NULL);

    /* And that one's own was sent. */
    ASK(&answer, SdsWrapOutgoingMessage, alice, "one", 3, "m1", "room");
    CHECK(answer.ret == SEABED_SDS_INVALID_ARGUMENT && strstr(answer.msg, "m1 was used before") != NULL);
    struct events of_alice = EVENTS;
    SdsSetEventCallback(alice, happened, &of_alice);
    unsigned char *r1 = wrapped(bob, "well", "r1", "room", &late_len);
    ASK(&answer, SdsUnwrapReceivedMessage, alice, r1, late_len);
    CHECK(count_of(&of_alice, "{\"messageId\":\"m1\",\"channelId\":\"room\",\"eventType\":\"message_sent\"}") == 1);
    ASK(&answer, seabed_sds_status, alice, "room");
    CHECK(strstr(answer.msg, "\"unacknowledged\":[],") != NULL);

    /* Channels are removed from the disk, too. */
    ASK(&answer, seabed_sds_remove_channel, alice, "room");
    CHECK(answer.ret == RET_OK);
    clean_up(alice);
    alice = opened("alice", "alice", SLOW);
    ASK(&answer, seabed_sds_channels, alice);
    CHECK(strcmp(answer.msg, "[\"other\"]") == 0);
    ASK(&answer, SdsResetReliabilityManager, alice);
    ASK(&answer, seabed_sds_channels, alice);
    CHECK(strcmp(answer.msg, "[]") == 0);
    clean_up(alice);
    clean_up(bob);
    free(m1), free(m2), free(other), free(r1);
    free(events.lines), free(of_alice.lines);
    forget(&answer);
}

static void failures_have_numbers(void) {
    struct answer answer = ANSWER;
    char *large = calloc(1, 1024 * 1024 + 1);
    void *ctx = opened("alice", NULL, "{\"channel\":{\"outgoing_messages_max\":1}}");
    ASK(&answer, SdsWrapOutgoingMessage, ctx, NULL, 0, "m", "c");
    CHECK(answer.ret == SEABED_SDS_INVALID_ARGUMENT && strstr(answer.msg, "say at least one byte") != NULL);
    ASK(&answer, SdsWrapOutgoingMessage, ctx, large, 1024 * 1024 + 1, "m", "c");
    CHECK(answer.ret == SEABED_SDS_MESSAGE_TOO_LARGE && strstr(answer.msg, "1048577 bytes, more than 1048576") != NULL);
    ASK(&answer, SdsUnwrapReceivedMessage, ctx, "xx", 2);
    CHECK(answer.ret == SEABED_SDS_DESERIALIZATION && strstr(answer.msg, "no message") != NULL);
    size_t len;
    free(wrapped(ctx, "x", "m1", "c", &len));
    ASK(&answer, SdsWrapOutgoingMessage, ctx, "x", 1, "m2", "c");
    CHECK(answer.ret == SEABED_SDS_BACKPRESSURE && strstr(answer.msg, "not acknowledged") != NULL);
    ASK(&answer, seabed_sds_status, ctx, "nowhere");
    CHECK(answer.ret == SEABED_SDS_INVALID_ARGUMENT && strcmp(answer.msg, "there is no channel nowhere") == 0);
    REFUSED(&answer, SEABED_SDS_INVALID_ARGUMENT, "libsds error: channel ID pointer is NULL", seabed_sds_status, ctx, NULL);
    REFUSED(&answer, RET_ERR, "libsds error: the context is not one that lives", seabed_sds_channels, NULL);
    CHECK(seabed_sds_channels(ctx, NULL, NULL) == RET_MISSING_CALLBACK);
    CHECK(seabed_sds_wait(NULL, 0) == RET_ERR);
    /* The rest of this one's line is told that the context has ended. */
    clean_up(ctx);
    ctx = opened(NULL, NULL, "{\"profile\":\"nim\"}");
    ASK(&answer, seabed_sds_send_sync, ctx, "c");
    CHECK(answer.ret == SEABED_SDS_UNSUPPORTED);
    clean_up(ctx);
    free(large);
    forget(&answer);
}

static void it_speaks_by_itself(void) {
    struct answer answer = ANSWER;
    struct events events = EVENTS;
    const char *quick = "{\"channel\":{\"resend_interval_ms\":20,\"resend_attempts_max\":2,\"resend_jitter_percent\":0}}";
    void *ctx = opened("alice", "speaks", quick);
    size_t len;
    free(wrapped(ctx, "x", "m1", "c", &len));
    clean_up(ctx);

    /* What was due before the restart is done after it, and given up in the end: nobody has acknowledged it. */
    ctx = opened("alice", "speaks", quick);
    SdsSetEventCallback(ctx, happened, &events);
    ASK(&answer, SdsStartPeriodicTasks, ctx);
    CHECK(answer.ret == RET_OK);
    await_event(&events, "{\"messageId\":\"m1\",\"channelId\":\"c\",\"possibly\":false,\"eventType\":\"message_unconfirmed\"}");
    CHECK(count_of(&events, "\"eventType\":\"resend\"}") == 2);
    CHECK(count_of(&events, "message_sent") == 0);
    clean_up(ctx);

    /* In the other dialect it says by itself what it knows, and may be made to. */
    free(events.lines);
    events.lines = NULL, events.len = 0;
    ctx = opened("alice", NULL, "{\"dialect\":\"spec\",\"channel\":{\"sync_interval_ms\":50}}");
    SdsSetEventCallback(ctx, happened, &events);
    ASK(&answer, seabed_sds_send_sync, ctx, "c");
    CHECK(answer.ret == RET_OK && answer.len == 0);
    free(wrapped(ctx, "x", "m1", "c", &len));
    ASK(&answer, seabed_sds_send_sync, ctx, "c");
    CHECK(answer.ret == RET_OK && answer.len > 0);
    ASK(&answer, SdsStartPeriodicTasks, ctx);
    await_event(&events, "\"eventType\":\"sync_ready\"}");
    clean_up(ctx);
    free(events.lines);
    forget(&answer);
}

int main(void) {
    CHECK(strchr(seabed_sds_version(), '.') != NULL);
    what_cannot_be_opened();
    a_restart_forgets_nothing();
    failures_have_numbers();
    it_speaks_by_itself();
    return 0;
}
