/* The nine functions as a program of nim-sds uses them: results, texts, events, and what is refused. */
#include "check.h"

static void *made(void) {
    struct answer answer = ANSWER;
    void *ctx = SdsNewReliabilityManager(answered, &answer);
    CHECK(ctx != NULL);
    await(&answer, 1);
    CHECK(answer.ret == RET_OK && answer.len == 0 && !answer.is_null);
    forget(&answer);
    return ctx;
}

static int hints_asked;

static void give_hint(const char *id, char **hint, size_t *len, void *data) {
    CHECK(data == &hints_asked && *hint == NULL && *len == 0);
    hints_asked++;
    if (strcmp(id, "m1") != 0) return;
    *hint = malloc(2);
    memcpy(*hint, "hi", 2);
    *len = 2;
}

static void arguments_are_checked_in_order(void) {
    struct answer answer = ANSWER;
    char garbage[8];
    void *ctx = made();
    CHECK(SdsNewReliabilityManager(NULL, NULL) == NULL);

    /* The context first: one that does not live is told of, so that nobody waits for ever. */
    for (int i = 0; i < 2; i++) {
        void *no = i == 0 ? NULL : garbage;
        const char *text = "libsds error: the context is not one that lives";
        REFUSED(&answer, RET_ERR, text, SdsWrapOutgoingMessage, no, "x", 1, "m", "c");
        REFUSED(&answer, RET_ERR, text, SdsUnwrapReceivedMessage, no, "x", 1);
        REFUSED(&answer, RET_ERR, text, SdsMarkDependenciesMet, no, NULL, 0, "c");
        REFUSED(&answer, RET_ERR, text, SdsResetReliabilityManager, no);
        REFUSED(&answer, RET_ERR, text, SdsStartPeriodicTasks, no);
        REFUSED(&answer, RET_ERR, text, SdsCleanupReliabilityManager, no);
        CHECK(SdsWrapOutgoingMessage(no, "x", 1, "m", "c", NULL, NULL) == RET_ERR);
        CHECK(SdsCleanupReliabilityManager(no, NULL, NULL) == RET_ERR);
        SdsSetEventCallback(no, answered, &answer);
        SdsSetRetrievalHintProvider(no, give_hint, NULL);
    }
    /* Then the callback. */
    CHECK(SdsWrapOutgoingMessage(ctx, NULL, 1, NULL, NULL, NULL, NULL) == RET_MISSING_CALLBACK);
    CHECK(SdsUnwrapReceivedMessage(ctx, NULL, 1, NULL, NULL) == RET_MISSING_CALLBACK);
    CHECK(SdsMarkDependenciesMet(ctx, NULL, 1, NULL, NULL, NULL) == RET_MISSING_CALLBACK);
    CHECK(SdsResetReliabilityManager(ctx, NULL, NULL) == RET_MISSING_CALLBACK);
    CHECK(SdsStartPeriodicTasks(ctx, NULL, NULL) == RET_MISSING_CALLBACK);
    CHECK(SdsCleanupReliabilityManager(ctx, NULL, NULL) == RET_MISSING_CALLBACK);
    /* Then the arguments, from left to right. */
    const char *null_message = "libsds error: message pointer is NULL but length > 0";
    const char *null_id = "libsds error: message ID pointer is NULL";
    const char *null_channel = "libsds error: channel ID pointer is NULL";
    const char *empty_channel = "libsds error: channel ID is empty string";
    const char *null_ids = "libsds error: MessageIDs pointer is NULL but count > 0";
    REFUSED(&answer, RET_ERR, null_message, SdsWrapOutgoingMessage, ctx, NULL, 1, NULL, NULL);
    REFUSED(&answer, RET_ERR, null_message, SdsUnwrapReceivedMessage, ctx, NULL, 1);
    REFUSED(&answer, RET_ERR, null_id, SdsWrapOutgoingMessage, ctx, "x", 1, NULL, NULL);
    REFUSED(&answer, RET_ERR, null_channel, SdsWrapOutgoingMessage, ctx, "x", 1, "m", NULL);
    REFUSED(&answer, RET_ERR, empty_channel, SdsWrapOutgoingMessage, ctx, "x", 1, "m", "");
    REFUSED(&answer, RET_ERR, null_ids, SdsMarkDependenciesMet, ctx, NULL, 1, NULL);
    REFUSED(&answer, RET_ERR, null_channel, SdsMarkDependenciesMet, ctx, NULL, 0, NULL);
    REFUSED(&answer, RET_ERR, empty_channel, SdsMarkDependenciesMet, ctx, NULL, 0, "");
    /* And what is beyond a bound. */
    char id[1026];
    memset(id, 'x', sizeof id);
    id[1025] = 0;
    REFUSED(&answer, RET_ERR, "libsds error: an ID is longer than 1024 bytes", SdsWrapOutgoingMessage, ctx, "x", 1, id, "c");
    REFUSED(&answer, RET_ERR, "libsds error: more than 10000 message IDs", SdsMarkDependenciesMet, ctx, (char **)&id, 10001, "c");

    /* What only the manager can know comes later, and from its thread. */
    ASK(&answer, SdsWrapOutgoingMessage, ctx, NULL, 0, "m", "c");
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing WRAP_MESSAGE request: reInvalidArgument") == 0);
    CHECK(!pthread_equal(answer.thread, pthread_self()));
    char *large = calloc(1, 1024 * 1024 + 1);
    ASK(&answer, SdsWrapOutgoingMessage, ctx, large, 1024 * 1024 + 1, "m", "c");
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing WRAP_MESSAGE request: reMessageTooLarge") == 0);
    /* Whose length is a lie is not read. */
    ASK(&answer, SdsUnwrapReceivedMessage, ctx, large, (size_t)-1);
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing UNWRAP_MESSAGE request: reMessageTooLarge") == 0);
    ASK(&answer, SdsWrapOutgoingMessage, ctx, large, 1024 * 1024, "large", "c");
    CHECK(answer.ret == RET_OK);
    free(large);
    ASK(&answer, SdsUnwrapReceivedMessage, ctx, "xx", 2);
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing UNWRAP_MESSAGE request: reDeserializationError") == 0);
    ASK(&answer, SdsUnwrapReceivedMessage, ctx, NULL, 0);
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing UNWRAP_MESSAGE request: reDeserializationError") == 0);
    ASK(&answer, SdsMarkDependenciesMet, ctx, NULL, 0, "never used");
    CHECK(answer.ret == RET_ERR && strcmp(answer.msg, "error processing MARK_DEPENDENCIES_MET request: reInvalidArgument") == 0);
    /* An empty id of a message is one. */
    ASK(&answer, SdsWrapOutgoingMessage, ctx, "x", 1, "", "c");
    CHECK(answer.ret == RET_OK);
    clean_up(ctx);
    REFUSED(&answer, RET_ERR, "libsds error: the context is not one that lives", SdsResetReliabilityManager, ctx);
    forget(&answer);
}

static void messages_go_their_way(void) {
    struct answer answer = ANSWER;
    struct events of_one = EVENTS, of_two = EVENTS, of_three = EVENTS;
    void *one = made(), *two = made(), *three = made();
    SdsSetEventCallback(one, happened, &of_one);
    SdsSetEventCallback(two, happened, &of_two);
    SdsSetEventCallback(three, happened, &of_three);
    SdsSetRetrievalHintProvider(one, give_hint, &hints_asked);

    /* Delivered: the event is told before the answer. */
    size_t len;
    unsigned char *m1 = wrapped(one, "hello", "m1", "c", &len);
    CHECK(len > 18000 && m1[0] == 10 && m1[1] == 2);
    CHECK(hints_asked == 0);
    ASK(&answer, SdsUnwrapReceivedMessage, two, m1, len);
    CHECK(answer.ret == RET_OK);
    CHECK(strcmp(answer.msg, "{\"message\":[104,101,108,108,111],\"channelId\":\"c\",\"missingDeps\":[]}") == 0);
    CHECK(strcmp(of_two.lines, "{\"messageId\":\"m1\",\"channelId\":\"c\",\"eventType\":\"message_ready\"}\n") == 0);
    /* Once more: the content, and no event. */
    ASK(&answer, SdsUnwrapReceivedMessage, two, m1, len);
    CHECK(strstr(answer.msg, "\"message\":[104,") != NULL && count_of(&of_two, "message_ready") == 1);
    /* And one's own, likewise: with no participant nobody knows that it is. */
    ASK(&answer, SdsUnwrapReceivedMessage, one, m1, len);
    CHECK(answer.ret == RET_OK && strstr(answer.msg, "\"message\":[104,") != NULL);
    CHECK(strstr(answer.msg, "\"missingDeps\":[]") != NULL);
    free(m1);

    /* What it rests on is not there: content and missing ids, with the hint that the sender gave. */
    unsigned char *m2 = wrapped(one, "again", "m2", "c", &len);
    CHECK(hints_asked == 1);
    ASK(&answer, SdsUnwrapReceivedMessage, three, m2, len);
    CHECK(strcmp(answer.msg, "{\"message\":[97,103,97,105,110],\"channelId\":\"c\",\"missingDeps\":[{\"messageId\":\"m1\",\"retrievalHint\":\"aGk=\"}]}") == 0);
    CHECK(strcmp(of_three.lines, "{\"messageId\":\"m2\",\"channelId\":\"c\",\"missingDeps\":[{\"messageId\":\"m1\",\"retrievalHint\":\"aGk=\"}],\"eventType\":\"missing_dependencies\"}\n") == 0);
    char *met[] = {"m1", NULL};
    ASK(&answer, SdsMarkDependenciesMet, three, met, 2, "c");
    CHECK(answer.ret == RET_OK && answer.len == 0);
    CHECK(count_of(&of_three, "{\"messageId\":\"m2\",\"channelId\":\"c\",\"eventType\":\"message_ready\"}") == 1);
    free(m2);

    /* Acknowledged by what the other one says next. */
    unsigned char *r1 = wrapped(two, "well", "r1", "c", &len);
    ASK(&answer, SdsUnwrapReceivedMessage, one, r1, len);
    CHECK(count_of(&of_one, "{\"messageId\":\"m1\",\"channelId\":\"c\",\"eventType\":\"message_sent\"}") == 1);
    free(r1);

    /* Ids are bytes. */
    unsigned char *odd = wrapped(one, "x", "\"\\\n\x01\xff", "c", &len);
    ASK(&answer, SdsUnwrapReceivedMessage, two, odd, len);
    CHECK(count_of(&of_two, "{\"messageId\":\"\\\"\\\\\\n\\u0001\xff\",") == 1);
    free(odd);

    /* Periodic tasks tell at once that a sync message might be sent; twice is once. */
    ASK(&answer, SdsStartPeriodicTasks, one);
    await_event(&of_one, "{\"eventType\":\"periodic_sync\"}");
    ASK(&answer, SdsStartPeriodicTasks, one);
    ASK(&answer, SdsResetReliabilityManager, one);
    CHECK(answer.ret == RET_OK && answer.len == 0);
    CHECK(count_of(&of_one, "periodic_sync") == 1);
    ASK(&answer, SdsMarkDependenciesMet, one, met, 1, "c");
    CHECK(answer.ret == RET_ERR);

    /* No events for who does not want them. */
    SdsSetEventCallback(two, NULL, NULL);
    size_t before = of_two.len;
    unsigned char *m9 = wrapped(one, "x", "m9", "c", &len);
    ASK(&answer, SdsUnwrapReceivedMessage, two, m9, len);
    CHECK(answer.ret == RET_OK && of_two.len == before);
    free(m9);

    clean_up(one);
    clean_up(two);
    clean_up(three);
    forget(&answer);
    free(of_one.lines);
    free(of_two.lines);
    free(of_three.lines);
}

int main(void) {
    arguments_are_checked_in_order();
    messages_go_their_way();
    return 0;
}
