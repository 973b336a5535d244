/* Link: where the server is and how it is reached. Makes the sockets. Constant once it is open. */

#ifndef DSA_LINK_H
#define DSA_LINK_H

#include "../common/dsa_common.h"

enum { KEY_BYTES = 41 }; /* 40 characters of Z85 and a 0 */

struct link {
    void *context;
    char *address;
    double timeout_us; /* after so long a silence the server is gone */
    bool is_local;     /* whether the server seems to be on this machine; a tunnel looks the same */
    bool has_keys;
    char public_key[KEY_BYTES], secret_key[KEY_BYTES], server_key[KEY_BYTES];
};

/* DSA_E_START for an address or a key that is none, DSA_E_ARGUMENT, DSA_E_MEMORY. */
int32_t link_open(struct link *link, const dsa_runtime_config *config);
void link_close(struct link *link); /* its sockets first */

/* A DEALER that is being connected. Thread-safe. */
int32_t link_socket(const struct link *link, void **socket);

/* keys.c. The key pair of a secret certificate (`dsa keys new`), which nobody else may be able to read. */
int32_t keys_load_own(const char *path, char public_key[KEY_BYTES], char secret_key[KEY_BYTES]);
/* A public key: its text, or the path of a certificate. */
int32_t keys_load_public(const char *text_or_path, char public_key[KEY_BYTES]);

#endif
