/* Worlds: what the server says about one, in the form of dsa_spec. */

#include <stdlib.h>
#include <string.h>

#include "client.h"

static void build_specs(void *with, struct channel *channel, struct request *request)
{
    const char *name = with;
    request_begin(request, "specs", channel_next_id(channel), channel->epoch, 0, 1);
    put_name(request, "world");
    if (name != NULL) {
        put_text(request, name);
    } else {
        put_nil(request);
    }
}

/* The text as one of ours; "" where there is none. */
static const char *keep_text(struct world *world, const msgpack_object *value)
{
    size_t length = value->type == MSGPACK_OBJECT_STR ? value->via.str.size : 0;
    char *kept = world->texts + world->texts_used;
    if (length + 1 > world->texts_bytes - world->texts_used) {
        return "";
    }
    if (length) {
        memcpy(kept, value->via.str.ptr, length);
    }
    kept[length] = '\0';
    world->texts_used += length + 1;
    return kept;
}

static const char *keep_json_text(struct world *world, zmq_msg_t *json, const char *name)
{
    char *kept = world->texts + world->texts_used;
    size_t room = world->texts_bytes - world->texts_used;
    if (json == NULL || !room || !json_top_text(zmq_msg_data(json), zmq_msg_size(json), name, kept, room)) {
        return "";
    }
    world->texts_used += strlen(kept) + 1;
    return kept;
}

/* False: it makes no sense, or out of memory. */
static bool read_actions(struct world *world, const msgpack_object *space)
{
    dsa_spec *spec = &world->spec;
    const msgpack_object *names = get(space, "names"), *units = get(space, "units");
    const msgpack_object *low = get(space, "low"), *high = get(space, "high");
    bool is_box = is_text(get(space, "type"), "Box");
    spec->action_type = is_box                                           ? DSA_BOX
                        : is_text(get(space, "type"), "Discrete")    ? DSA_DISCRETE
                        : is_text(get(space, "type"), "MultiBinary") ? DSA_MULTI_BINARY
                                                                     : 0;
    uint32_t count = is_box ? length_of(low) : (uint32_t)get_uint(space, "n");
    bool good = spec->action_type && count && length_of(names) == count &&
                (!is_box || (length_of(high) == count && length_of(units) == count));
    if (!good) {
        return false;
    }
    spec->action_count = count;
    spec->action_bytes = is_box ? count * sizeof(float) : spec->action_type == DSA_DISCRETE ? sizeof(int32_t) : count;
    world->names = calloc(2 * (size_t)count, sizeof *world->names);
    world->bounds = calloc(2 * (size_t)count, sizeof *world->bounds);
    if (world->names == NULL || world->bounds == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        world->names[i] = keep_text(world, item_of(names, i));
        if (is_box) {
            world->names[count + i] = keep_text(world, item_of(units, i));
            world->bounds[i] = (float)as_real(item_of(low, i), 0);
            world->bounds[count + i] = (float)as_real(item_of(high, i), 0);
        }
    }
    spec->action_names = world->names;
    if (is_box) {
        spec->action_units = world->names + count;
        spec->action_low = world->bounds;
        spec->action_high = world->bounds + count;
    }
    return true;
}

static bool read_schedule(struct world *world, const msgpack_object *schedule)
{
    const msgpack_object *levels = get(schedule, "levels");
    uint32_t count = length_of(levels);
    world->levels = calloc(count ? count : 1, sizeof *world->levels);
    for (uint32_t i = 0; world->levels != NULL && i < count; i++) {
        world->levels[i] = as_real(item_of(levels, i), 0);
    }
    world->spec.schedule_steps = count;
    world->spec.schedule_levels = world->levels;
    return world->levels != NULL && count > 0;
}

/* False: it makes no sense, or out of memory. Most worlds take none: then there is nothing to read. */
static bool read_prompts(struct world *world, const msgpack_object *text)
{
    dsa_spec *spec = &world->spec;
    const msgpack_object *names = get(text, "prompts");
    uint32_t count = length_of(names);
    if (text->type == MSGPACK_OBJECT_NIL) {
        return true;
    }
    spec->text_width = (uint32_t)get_uint(text, "width");
    spec->text_tokens = (uint32_t)get_uint(text, "tokens");
    spec->prompt_count = count;
    world->prompts = calloc(count ? count : 1, sizeof *world->prompts);
    for (uint32_t i = 0; world->prompts != NULL && i < count; i++) {
        world->prompts[i] = keep_text(world, item_of(names, i));
    }
    spec->prompts = world->prompts;
    return world->prompts != NULL && count && spec->text_width && spec->text_width <= 1 << 20 && spec->text_tokens &&
           spec->text_tokens <= 1 << 20;
}

/* False: it makes no sense, or out of memory. */
static bool read_spec(struct world *world, struct reply *reply)
{
    dsa_spec *spec = &world->spec;
    const msgpack_object *told = get(&reply->map, "spec"), *frame = get(told, "frame");
    const msgpack_object *aspect = get(frame, "display_aspect"), *calibration = get(told, "calibration");
    zmq_msg_t *json = NULL;
    reply_buffer(reply, "spec", &json);
    dsa_spec_init(spec, sizeof *spec);
    /* A text takes a byte more here, and there too, where its length is. */
    world->texts_bytes = zmq_msg_size(&reply->header) + (json == NULL ? 0 : zmq_msg_size(json)) + 2;
    world->texts = malloc(world->texts_bytes);
    if (world->texts == NULL) {
        return false;
    }
    spec->height = (uint32_t)get_uint(frame, "height");
    spec->width = (uint32_t)get_uint(frame, "width");
    spec->channels = (uint32_t)get_uint(frame, "channels");
    spec->frame_bytes = (size_t)spec->height * spec->width * spec->channels;
    spec->frames_per_tick = (uint32_t)get_uint(frame, "frames_per_tick");
    spec->tick_bytes = spec->frames_per_tick * spec->frame_bytes;
    spec->fps = get_real(frame, "fps", 0);
    if (!spec->tick_bytes || spec->height > 16384 || spec->width > 16384 || spec->channels != 3 ||
        spec->frames_per_tick > 256 || !(spec->fps > 0)) {
        return false;
    }
    spec->period_us = (uint64_t)llround(1e6 * spec->frames_per_tick / spec->fps);
    spec->aspect_width = length_of(aspect) == 2 ? (uint32_t)as_real(item_of(aspect, 0), 0) : spec->width;
    spec->aspect_height = length_of(aspect) == 2 ? (uint32_t)as_real(item_of(aspect, 1), 0) : spec->height;
    spec->contexts = (uint32_t)get_uint(&reply->map, "contexts");
    spec->default_threshold = get_real(calibration, "default_threshold", 0);
    spec->delta = get_real(calibration, "delta", 0);
    spec->delta_unit = keep_text(world, get(calibration, "delta_unit"));
    spec->name = keep_text(world, get(told, "name"));
    spec->version = keep_text(world, get(told, "version"));
    spec->fingerprint = keep_text(world, get(told, "fingerprint"));
    spec->licence = keep_json_text(world, json, "licence");
    spec->description = keep_json_text(world, json, "description");
    return read_actions(world, get(told, "action_space")) && read_schedule(world, get(told, "schedule")) &&
           read_prompts(world, get(told, "text"));
}

void world_free(struct world *world)
{
    free(world->texts);
    free(world->names);
    free(world->prompts);
    free(world->bounds);
    free(world->levels);
    free(world);
}

static int32_t find_world(struct runtime *runtime, const dsa_world_config *config, struct world **found)
{
    char name[TEXT_BYTES];
    if (config->quality_alpha >= 0 || config->quality_delta >= 0) {
        return dsa_fail(DSA_E_UNSUPPORTED, "quality: the server's worlds are loaded already; start it with --quality");
    }
    if (config->world != NULL) {
        size_t length = strlen(config->world);
        if (length >= sizeof name) {
            return dsa_fail(DSA_E_WORLD, "world: the server has none of that name: %.80s...", config->world);
        }
        memcpy(name, config->world, length + 1);
    }
    int32_t status = control_ask(runtime, build_specs, config->world == NULL ? NULL : name);
    if (status < 0) { /* the only thing that can be wrong with it is the name; the message says so */
        return status == DSA_E_ARGUMENT ? DSA_E_WORLD : status;
    }
    struct world *world = calloc(1, sizeof *world);
    bool good = world != NULL;
    if (good) {
        world->runtime = runtime;
        good = read_spec(world, &runtime->reply);
    }
    control_done(runtime);
    if (!good) {
        if (world != NULL) {
            world_free(world);
        }
        return dsa_fail(DSA_E_INTERNAL, "what the server says about the world makes no sense, or out of memory");
    }
    *found = world;
    return DSA_OK;
}

DSA_API int32_t dsa_world_open(dsa_runtime *runtime, const dsa_world_config *config, dsa_world **handle)
{
    if (handle == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "world: NULL");
    }
    *handle = NULL;
    dsa_world_config ours;
    void *data;
    struct world *world = NULL;
    int32_t status = DSA_TAKE(dsa_world_config, &ours, config);
    if (status == DSA_OK) {
        status = dsa_enter(runtime, DSA_KIND_RUNTIME, &data);
    }
    if (status < 0) {
        return status;
    }
    status = find_world(data, &ours, &world);
    if (status == DSA_OK) {
        *handle = dsa_handle_new(DSA_KIND_WORLD, runtime, world);
        if (*handle == NULL) {
            world_free(world);
            status = DSA_E_MEMORY;
        }
    }
    dsa_leave(runtime);
    return status;
}

DSA_API int32_t dsa_world_spec(dsa_world *handle, dsa_spec *spec)
{
    if (spec == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "spec: NULL");
    }
    void *data;
    int32_t status = DSA_CHECK_OUTPUT(dsa_spec, spec);
    if (status == DSA_OK) {
        status = dsa_enter(handle, DSA_KIND_WORLD, &data);
    }
    if (status < 0) {
        return status;
    }
    const struct world *world = data;
    dsa_copy_out(spec, &world->spec, sizeof *spec);
    dsa_leave(handle);
    return DSA_OK;
}
