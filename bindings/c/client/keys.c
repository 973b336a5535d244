/* Keys: reads the files of `dsa keys new`, which have the format of ZeroMQ's certificates. */

#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

#include "link.h"

static bool is_key(const char *text)
{
    uint8_t bytes[32];
    return strlen(text) == KEY_BYTES - 1 && zmq_z85_decode(bytes, text) != NULL;
}

/* A line `    name = "..."`. */
static void read_line(const char *line, const char *name, char key[KEY_BYTES])
{
    while (isspace((unsigned char)*line)) {
        line++;
    }
    size_t length = strlen(name);
    if (strncmp(line, name, length)) {
        return;
    }
    char value[KEY_BYTES];
    if (sscanf(line + length, " = \"%40[^\"]\"", value) == 1 && is_key(value)) {
        memcpy(key, value, KEY_BYTES);
    }
}

static int32_t load(const char *path, bool is_secret, char public_key[KEY_BYTES], char secret_key[KEY_BYTES])
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return dsa_fail(DSA_E_START, "key %.300s: %s", path, strerror(errno));
    }
    struct stat found;
    if (is_secret && (fstat(fileno(file), &found) || found.st_mode & 077)) {
        fclose(file);
        return dsa_fail(DSA_E_START, "key %.300s: a secret key that others can read; chmod 600 it", path);
    }
    char line[256];
    public_key[0] = secret_key[0] = '\0';
    while (fgets(line, sizeof line, file) != NULL) {
        read_line(line, "public-key", public_key);
        read_line(line, "secret-key", secret_key);
    }
    fclose(file);
    if (!public_key[0] || (is_secret && !secret_key[0])) {
        return dsa_fail(DSA_E_START, "key %.300s: not a %s CURVE certificate; `dsa keys new` makes them", path,
                        is_secret ? "secret" : "public");
    }
    return DSA_OK;
}

int32_t keys_load_own(const char *path, char public_key[KEY_BYTES], char secret_key[KEY_BYTES])
{
    return load(path, true, public_key, secret_key);
}

int32_t keys_load_public(const char *text_or_path, char public_key[KEY_BYTES])
{
    if (is_key(text_or_path)) {
        memcpy(public_key, text_or_path, KEY_BYTES);
        return DSA_OK;
    }
    char secret_key[KEY_BYTES];
    return load(text_or_path, false, public_key, secret_key);
}
