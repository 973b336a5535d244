/* Link: addresses, socket options, CURVE. */

#define _POSIX_C_SOURCE 200809L

#include "link.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static int32_t check_address(const char *address, bool *is_local)
{
    *is_local = !strncmp(address, "ipc://", 6) && address[6];
    if (*is_local) {
        return DSA_OK;
    }
    bool good = !strncmp(address, "tcp://", 6);
    const char *host = address + 6, *colon = good ? strrchr(host, ':') : NULL;
    good = colon != NULL && colon > host && colon[1];
    for (const char *digit = good ? colon + 1 : ""; *digit; digit++) {
        good = good && isdigit((unsigned char)*digit) && digit - colon <= 5;
    }
    if (good && host[0] != '[') {
        good = memchr(host, ':', (size_t)(colon - host)) == NULL;
    }
    if (!good || strtol(colon + 1, NULL, 10) > 65535) {
        return dsa_fail(DSA_E_START, "server: expected tcp://HOST:PORT or ipc:///PATH/OF/A/SOCKET, got \"%.200s\"", address);
    }
    static const char *const LOCAL[] = {"localhost:", "127.", "[::1]:"};
    for (size_t i = 0; i < sizeof LOCAL / sizeof *LOCAL; i++) {
        *is_local = *is_local || !strncmp(host, LOCAL[i], strlen(LOCAL[i]));
    }
    return DSA_OK;
}

static const char *given(const char *value, const char *variable)
{
    if (value == NULL) {
        value = getenv(variable);
    }
    return value != NULL && *value ? value : NULL;
}

static int32_t load_keys(struct link *link, const char *key, const char *server_key)
{
    if (key == NULL && server_key == NULL) {
        return DSA_OK;
    }
    if (key == NULL || server_key == NULL) {
        return dsa_fail(DSA_E_START, "%s: a server with CURVE needs both key and server_key; give it, or leave out both",
                        key == NULL ? "key" : "server_key");
    }
    if (!zmq_has("curve")) {
        return dsa_fail(DSA_E_UNSUPPORTED, "key: this libzmq was built without CURVE");
    }
    link->has_keys = true;
    int32_t status = keys_load_own(key, link->public_key, link->secret_key);
    return status < 0 ? status : keys_load_public(server_key, link->server_key);
}

int32_t link_open(struct link *link, const dsa_runtime_config *config)
{
    *link = (struct link){.timeout_us = (double)config->timeout_us};
    if (config->timeout_us == 0) {
        return dsa_fail(DSA_E_ARGUMENT, "timeout_us: must be at least 1");
    }
    const char *address = given(config->server, "DSA_SERVER");
    if (address == NULL) {
        return dsa_fail(DSA_E_START, "server: give the address of a server, or set DSA_SERVER");
    }
    int32_t status = check_address(address, &link->is_local);
    if (status == DSA_OK) {
        status = load_keys(link, given(config->key, "DSA_KEY"), given(config->server_key, "DSA_SERVER_KEY"));
    }
    if (status < 0) {
        return status;
    }
    link->address = strdup(address);
    link->context = link->address == NULL ? NULL : zmq_ctx_new();
    if (link->context == NULL) {
        free(link->address);
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    zmq_ctx_set(link->context, ZMQ_MAX_SOCKETS, 8192); /* each session has one */
    return DSA_OK;
}

void link_close(struct link *link)
{
    while (zmq_ctx_term(link->context) && errno == EINTR) {
    }
    free(link->address);
}

int32_t link_socket(const struct link *link, void **made)
{
    static const struct {
        int option, value;
    } OPTIONS[] = {
        /* What is sent to a server that is away reaches the next one, which refuses it: it names the epoch. In return
           what a server says last can be read after it has gone; with IMMEDIATE, libzmq would throw that away. */
        {ZMQ_IMMEDIATE, 0},
        {ZMQ_SNDHWM, 64},
        {ZMQ_LINGER, 0},
        {ZMQ_RECONNECT_IVL, 50},
        {ZMQ_RECONNECT_IVL_MAX, 400},
        {ZMQ_HEARTBEAT_IVL, 200}, /* a peer that is frozen, or behind a cut, is noticed */
    };
    void *socket = zmq_socket(link->context, ZMQ_DEALER);
    if (socket == NULL) {
        return dsa_fail(DSA_E_MEMORY, "no room for one more connection: %s", zmq_strerror(zmq_errno()));
    }
    bool good = true;
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
        good = good && !zmq_setsockopt(socket, OPTIONS[i].option, &OPTIONS[i].value, sizeof(int));
    }
    /* A message that takes longer than this to cross costs the connection, each time it is asked for. */
    int patience_ms = (int)fmin(fmax(link->timeout_us / 1000, 600), INT_MAX);
    good = good && !zmq_setsockopt(socket, ZMQ_HEARTBEAT_TIMEOUT, &patience_ms, sizeof patience_ms);
    if (!strncmp(link->address, "tcp://[", 7)) {
        good = good && !zmq_setsockopt(socket, ZMQ_IPV6, &(int){1}, sizeof(int));
    }
    if (link->has_keys) {
        good = good && !zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, link->server_key, KEY_BYTES) &&
               !zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, link->public_key, KEY_BYTES) &&
               !zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, link->secret_key, KEY_BYTES);
    }
    if (!good || zmq_connect(socket, link->address)) {
        int problem = zmq_errno();
        zmq_close(socket);
        return dsa_fail(DSA_E_START, "%s: %s", link->address, zmq_strerror(problem));
    }
    *made = socket;
    return DSA_OK;
}
