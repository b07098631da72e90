/* SDS (Scalable Data Sync): nim-sds' nine functions, and seabed_sds_* beside them. docs/protocols/libsds.md explains them.
 * Written from the library's source: UPDATE=1 cargo nextest run -p libsds --test abi */

#ifndef __libsds__
#define __libsds__

#include <stddef.h>
#include <stdint.h>

/*
 The request was accepted, or has succeeded.
 */
#define RET_OK 0

/*
 The request was refused, or has failed.
 */
#define RET_ERR 1

/*
 There is no callback to call. Give one.
 */
#define RET_MISSING_CALLBACK 2

/*
 In a callback of a context of `seabed_sds_open`: fix the call. Nothing was changed.
 */
#define SEABED_SDS_INVALID_ARGUMENT 3

/*
 Likewise: split the content, or drop the message that came.
 */
#define SEABED_SDS_MESSAGE_TOO_LARGE 4

/*
 Likewise: these bytes are no message. Their sender speaks another language.
 */
#define SEABED_SDS_DESERIALIZATION 5

/*
 Likewise: too much is not acknowledged, or waits. Try again later.
 */
#define SEABED_SDS_BACKPRESSURE 6

/*
 Likewise: the dialect or profile has no such thing.
 */
#define SEABED_SDS_UNSUPPORTED 7

/*
 Likewise: the store failed, nothing was said. Try again, or look after it.
 */
#define SEABED_SDS_PERSISTENCE 8

/*
 Likewise: another process, or another context, has the store.
 */
#define SEABED_SDS_BUSY 9

/*
 Likewise: the context has ended. Open a new one.
 */
#define SEABED_SDS_CLOSED 10

/*
 Likewise: a defect of this library. Please report the text.
 */
#define SEABED_SDS_INTERNAL 11

/*
 What is called with the result of a request, or with an event: `RET_OK` and its bytes, or another number and a text that says what went
 wrong. `msg` belongs to the library, holds `len` bytes, and is to be read before the function returns. It is called on the thread
 of the context, or, when a request is refused, on the caller's.
 */
typedef void (*SdsCallBack)(int callerRet, const char *msg, size_t len, void *userData);

/*
 What is asked for something that helps to fetch a message from elsewhere. It puts memory of `malloc` into `hint` and its length
 into `hintLen`; the library frees it. It may leave both as they are.
 */
typedef void (*SdsRetrievalHintProvider)(const char *messageId, char **hint, size_t *hintLen, void *userData);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Makes a context as nim-sds does: no participant ID, every default, nothing kept after a restart. The result is empty.
 Returns NULL when it cannot.

 # Safety
 `callback` is NULL or a function of its type that may be called from any thread until the context is cleaned up.
 */
void *SdsNewReliabilityManager(SdsCallBack callback,
                               void *userData);

/*
 Sets what is told of events, instead of what was told before; NULL for nothing. The function that was set before is called no more; one call
 of it may be in progress, and its data in use until that returns.

 # Safety
 As for `SdsNewReliabilityManager`.
 */
void SdsSetEventCallback(void *ctx,
                         SdsCallBack callback,
                         void *userData);

/*
 Sets what is asked for retrieval hints when a message is wrapped, instead of what was asked before; NULL for nothing. The function that was
 set before is called no more; one call of it may be in progress, and its data in use until that returns.

 # Safety
 As for `SdsNewReliabilityManager`. What the provider puts into `hint` is NULL or memory of `malloc` of at least `hintLen` bytes.
 */
void SdsSetRetrievalHintProvider(void *ctx,
                                 SdsRetrievalHintProvider callback,
                                 void *userData);

/*
 Ends a context: requests that wait are refused, what is kept stays. The callback comes before this returns, and afterwards no function of the
 program is called. `RET_ERR` when one (a callback, or the provider of hints) does not return; the context is gone all the same, and its
 thread ends when that function does. Then, and when this is called inside one, the request in progress is still answered, once;
 nothing else is called.

 # Safety
 As for `SdsNewReliabilityManager`. `ctx` may be anything.
 */
int SdsCleanupReliabilityManager(void *ctx,
                                 SdsCallBack callback,
                                 void *userData);

/*
 Removes every channel, from memory and from the store. The result is empty.

 # Safety
 As for `SdsNewReliabilityManager`.
 */
int SdsResetReliabilityManager(void *ctx, SdsCallBack callback, void *userData);

/*
 Sends a message: the result is its bytes for every other participant, as decimal numbers with commas between.

 # Safety
 As for `SdsNewReliabilityManager`. `message` is NULL or holds `messageLen` bytes; `messageId` and `channelId` are NULL or end with a NUL. All
 of them are read before this returns.
 */
int SdsWrapOutgoingMessage(void *ctx,
                           void *message,
                           size_t messageLen,
                           const char *messageId,
                           const char *channelId,
                           SdsCallBack callback,
                           void *userData);

/*
 Takes in a message from the network: the result is an object with its content as an array of numbers (`message`), its `channelId`, and
 what it rests on and is not here (`missingDeps`). A context of `seabed_sds_open` adds `messageId`, `senderId` and `reception`.

 # Safety
 As for `SdsNewReliabilityManager`. `message` is NULL or holds `messageLen` bytes, which are read before this returns.
 */
int SdsUnwrapReceivedMessage(void *ctx,
                             void *message,
                             size_t messageLen,
                             SdsCallBack callback,
                             void *userData);

/*
 Declares that messages which others rest on are here, or can be done without. The result is empty.

 # Safety
 As for `SdsNewReliabilityManager`. `messageIDs` is NULL or holds `count` pointers, each NULL or to a text that ends with a NUL; so does
 `channelId`. All of them are read before this returns.
 */
int SdsMarkDependenciesMet(void *ctx,
                           char **messageIDs,
                           size_t count,
                           const char *channelId,
                           SdsCallBack callback,
                           void *userData);

/*
 Starts what happens by itself: what is due is done on the context's thread from now on, also what was due before a restart. Once is
 enough. A channel of the store that does not load makes an error of the answer, which names it; the others go on. Else the result is empty.

 # Safety
 As for `SdsNewReliabilityManager`.
 */
int SdsStartPeriodicTasks(void *ctx,
                          SdsCallBack callback,
                          void *userData);

/*
 The version of this library, as `1.2.3`. It belongs to the library.
 */
const char *seabed_sds_version(void);

/*
 Makes a context for a participant, with a store: what it has said and heard is on disk before anybody is told, and there again when the
 same participant opens the same path with the same configuration. The nine functions work on it as on any other, and it tells more: in a
 callback a number of its own for each kind of failure, with a text that says what to do; further events (docs/protocols/libsds.md).

 `participantId`: NULL or empty for nobody, who takes no part in repair. `storePath`: a directory, which is made; NULL for memory.
 `config`: a JSON object, or NULL for the defaults. Waits for the disk. The result is empty; NULL is returned when it cannot, and the
 callback has said why.

 # Safety
 As for `SdsNewReliabilityManager`. The texts are NULL or end with a NUL, and are read before this returns.
 */
void *seabed_sds_open(const char *participantId,
                      const char *storePath,
                      const char *config,
                      SdsCallBack callback,
                      void *userData);

/*
 Waits until every request of a context is answered. `RET_ERR` when it takes longer than `timeoutMs`, when the context is not one that
 lives, and inside a callback of it.
 */
int seabed_sds_wait(void *ctx,
                    uint64_t timeoutMs);

/*
 Tells what a channel holds: the result is an object with its `lamport`, how many messages its `log` has, the ids of messages that
 nobody has acknowledged (`unacknowledged`), of those that wait (`waiting`) and of those that are `missing`, and what has happened since the
 context was made.

 # Safety
 As for `SdsNewReliabilityManager`. `channelId` is NULL or ends with a NUL, and is read before this returns.
 */
int seabed_sds_status(void *ctx,
                      const char *channelId,
                      SdsCallBack callback,
                      void *userData);

/*
 Tells every channel in memory and in the store: the result is an array of their ids.

 # Safety
 As for `SdsNewReliabilityManager`.
 */
int seabed_sds_channels(void *ctx, SdsCallBack callback, void *userData);

/*
 Removes a channel, from memory and from the store. The result is empty.

 # Safety
 As for `seabed_sds_status`.
 */
int seabed_sds_remove_channel(void *ctx, const char *channelId, SdsCallBack callback, void *userData);

/*
 Tells the other participants what this one knows, so that they notice what they miss: the result is a message for them, as decimal
 numbers with commas between, or empty when there is nothing to tell. Not in profile `nim`.

 # Safety
 As for `seabed_sds_status`.
 */
int seabed_sds_send_sync(void *ctx,
                         const char *channelId,
                         SdsCallBack callback,
                         void *userData);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* __libsds__ */
