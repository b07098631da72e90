/* What the programs have in common: checks, answers that can be waited for, a log of events. */
#ifndef CHECK_H
#define CHECK_H

#include <libsds.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

#define UNUSED __attribute__((unused))

/* What a callback was given. */
struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int count;
    int ret;
    int is_null;
    char *msg;
    size_t len;
    pthread_t thread;
};

#define ANSWER {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}

static UNUSED void answered(int ret, const char *msg, size_t len, void *data) {
    struct answer *answer = data;
    pthread_mutex_lock(&answer->lock);
    free(answer->msg);
    answer->msg = calloc(len + 1, 1);
    if (len > 0) memcpy(answer->msg, msg, len);
    answer->is_null = msg == NULL;
    answer->len = len;
    answer->ret = ret;
    answer->thread = pthread_self();
    answer->count++;
    pthread_cond_broadcast(&answer->changed);
    pthread_mutex_unlock(&answer->lock);
}

/* Waits for the next answer after those that were there. */
static UNUSED void await(struct answer *answer, int count) {
    pthread_mutex_lock(&answer->lock);
    while (answer->count < count) pthread_cond_wait(&answer->changed, &answer->lock);
    pthread_mutex_unlock(&answer->lock);
}

/* Makes a request with the answer as its last two arguments, and waits. The answer's ret and msg are those of the callback, which
 * came once. */
#define ASK(answer, function, ...) \
    do { \
        int before_ = (answer)->count; \
        CHECK(function(__VA_ARGS__, answered, answer) == RET_OK); \
        await(answer, before_ + 1); \
        CHECK((answer)->count == before_ + 1); \
    } while (0)

/* The same for one that is refused at once, on this thread. */
#define REFUSED(answer, expected_ret, text, function, ...) \
    do { \
        int before_ = (answer)->count; \
        CHECK(function(__VA_ARGS__, answered, answer) == RET_ERR); \
        CHECK((answer)->count == before_ + 1 && (answer)->ret == (expected_ret)); \
        CHECK(pthread_equal((answer)->thread, pthread_self())); \
        CHECK(strcmp((answer)->msg, text) == 0); \
    } while (0)

static UNUSED void forget(struct answer *answer) {
    free(answer->msg);
    answer->msg = NULL;
}

/* Everything that happened, a line an event. */
struct events {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *lines;
    size_t len;
};

#define EVENTS {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}

static UNUSED void happened(int ret, const char *msg, size_t len, void *data) {
    struct events *events = data;
    CHECK(ret == RET_OK);
    pthread_mutex_lock(&events->lock);
    events->lines = realloc(events->lines, events->len + len + 2);
    memcpy(events->lines + events->len, msg, len);
    events->len += len;
    events->lines[events->len++] = '\n';
    events->lines[events->len] = 0;
    pthread_cond_broadcast(&events->changed);
    pthread_mutex_unlock(&events->lock);
}

static UNUSED int count_of(struct events *events, const char *text) {
    int count = 0;
    pthread_mutex_lock(&events->lock);
    for (const char *at = events->lines; at != NULL && (at = strstr(at, text)) != NULL; at++) count++;
    pthread_mutex_unlock(&events->lock);
    return count;
}

/* Waits until a text is in the log. */
static UNUSED void await_event(struct events *events, const char *text) {
    pthread_mutex_lock(&events->lock);
    while (events->lines == NULL || strstr(events->lines, text) == NULL)
        pthread_cond_wait(&events->changed, &events->lock);
    pthread_mutex_unlock(&events->lock);
}

/* The bytes of a decimal list; the caller frees them. */
static UNUSED unsigned char *bytes_of(const char *list, size_t *len) {
    unsigned char *bytes = malloc(strlen(list) + 1);
    *len = 0;
    for (char *at = (char *)list; *at != 0; at += *at == ',') bytes[(*len)++] = (unsigned char)strtoul(at, &at, 10);
    return bytes;
}

/* Wraps a text; the caller frees the bytes. */
static UNUSED unsigned char *wrapped(void *ctx, const char *text, const char *id, const char *channel, size_t *len) {
    struct answer answer = ANSWER;
    ASK(&answer, SdsWrapOutgoingMessage, ctx, (void *)text, strlen(text), id, channel);
    CHECK(answer.ret == RET_OK);
    unsigned char *bytes = bytes_of(answer.msg, len);
    forget(&answer);
    return bytes;
}

static UNUSED void clean_up(void *ctx) {
    struct answer answer = ANSWER;
    CHECK(SdsCleanupReliabilityManager(ctx, answered, &answer) == RET_OK);
    CHECK(answer.count == 1 && answer.ret == RET_OK && answer.is_null && answer.len == 0);
    forget(&answer);
}

#endif
