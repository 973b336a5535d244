/* Texts of a world.json, of which messages bring the rest as msgpack. */

#include <stdlib.h>
#include <string.h>

#include "client.h"

struct cursor {
    const char *at, *end;
};

static char next(struct cursor *cursor) { return cursor->at < cursor->end ? *cursor->at++ : '\0'; }

static void skip_space(struct cursor *cursor)
{
    while (cursor->at < cursor->end && memchr(" \t\r\n", *cursor->at, 4) != NULL) {
        cursor->at++;
    }
}

static void append(char *target, size_t size, size_t *used, uint32_t letter)
{
    char bytes[4];
    size_t count = 0;
    if (letter < 0x80) {
        bytes[count++] = (char)letter;
    } else if (letter < 0x800) {
        bytes[count++] = (char)(0xc0 | letter >> 6);
    } else if (letter < 0x10000) {
        bytes[count++] = (char)(0xe0 | letter >> 12);
        bytes[count++] = (char)(0x80 | (letter >> 6 & 0x3f));
    } else {
        bytes[count++] = (char)(0xf0 | letter >> 18);
        bytes[count++] = (char)(0x80 | (letter >> 12 & 0x3f));
        bytes[count++] = (char)(0x80 | (letter >> 6 & 0x3f));
    }
    if (letter >= 0x80) {
        bytes[count++] = (char)(0x80 | (letter & 0x3f));
    }
    for (size_t i = 0; i < count && *used + 1 < size; i++) {
        target[(*used)++] = bytes[i];
    }
}

static uint32_t four_digits(struct cursor *cursor)
{
    char digits[5] = {0};
    for (int i = 0; i < 4; i++) {
        digits[i] = next(cursor);
    }
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* After the first quotation mark, to behind the last one. target may have no room: then it is only skipped. */
static void read_text(struct cursor *cursor, char *target, size_t size)
{
    static const char ESCAPES[] = "nrtbf", MEANT[] = "\n\r\t\b\f";
    size_t used = 0;
    for (char letter = next(cursor); letter && letter != '"'; letter = next(cursor)) {
        uint32_t code = (unsigned char)letter;
        if (letter != '\\') {
            if (used + 1 < size) {
                target[used++] = letter; /* UTF-8 as it is */
            }
            continue;
        }
        letter = next(cursor);
        const char *escape = letter ? strchr(ESCAPES, letter) : NULL;
        code = escape != NULL ? (uint32_t)MEANT[escape - ESCAPES] : (unsigned char)letter;
        if (letter == 'u') {
            code = four_digits(cursor);
            if (code >= 0xd800 && code < 0xdc00 && next(cursor) == '\\' && next(cursor) == 'u') {
                code = 0x10000 + ((code - 0xd800) << 10) + ((four_digits(cursor) - 0xdc00) & 0x3ff);
            }
        }
        append(target, size, &used, code);
    }
    if (size) {
        target[used] = '\0';
    }
}

bool json_top_text(const char *json, size_t bytes, const char *name, char *target, size_t size)
{
    struct cursor cursor = {json, json + bytes};
    char found[32] = "";
    int depth = 0;
    for (char letter = next(&cursor); letter; letter = next(&cursor)) {
        if (letter == '{' || letter == '[') {
            depth++;
        } else if (letter == '}' || letter == ']') {
            depth--;
        } else if (letter == '"') {
            read_text(&cursor, found, sizeof found);
            skip_space(&cursor);
            bool is_name = cursor.at < cursor.end && *cursor.at == ':';
            if (depth == 1 && is_name && !strcmp(found, name)) {
                cursor.at++;
                skip_space(&cursor);
                if (next(&cursor) == '"') {
                    read_text(&cursor, target, size);
                    return true;
                }
                return false;
            }
        }
    }
    return false;
}
