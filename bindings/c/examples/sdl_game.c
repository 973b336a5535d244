/* A minimal game: shows a world in a window and takes the keyboard.

     cc -std=c11 sdl_game.c -o sdl_game $(pkg-config --cflags --libs sdl2) -ldsa_runtime      (or -ldsa_client)
     ./sdl_game --world NAME

   Keys: arrows or A W S D, space; they are matched to the names of the world's actions (left, right, up, forward, ...).
   The number keys give the actions by index. Backspace goes back a second, R starts over with another seed, P takes a
   snapshot, L returns to it, Escape ends. */

#include <SDL.h>
#include <dsa_runtime.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] = "sdl_game [--world NAME] [--seed N] [--frames N] [--picture FILE.ppm] [--scale N]\n";

static const struct {
    SDL_Scancode key;
    const char *words[4]; /* in the name of an action */
} KEYS[] = {
    {SDL_SCANCODE_LEFT, {"left"}},   {SDL_SCANCODE_A, {"left"}},
    {SDL_SCANCODE_RIGHT, {"right"}}, {SDL_SCANCODE_D, {"right"}},
    {SDL_SCANCODE_UP, {"forward", "up", "gas"}},    {SDL_SCANCODE_W, {"forward", "up", "gas"}},
    {SDL_SCANCODE_DOWN, {"back", "down", "brake"}}, {SDL_SCANCODE_S, {"back", "down", "brake"}},
    {SDL_SCANCODE_SPACE, {"fire", "attack", "jump", "shoot"}},
};

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "sdl_game: %s: %s\n", what, why);
    return 1;
}

/* Whether a key that is down asks for the action of that index and name. */
static bool is_wanted(const Uint8 *keys, uint32_t index, const char *name)
{
    if (index < 10 && keys[index ? SDL_SCANCODE_1 + (int)index - 1 : SDL_SCANCODE_0]) {
        return true;
    }
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        for (size_t word = 0; keys[KEYS[i].key] && word < 4 && KEYS[i].words[word] != NULL; word++) {
            if (strstr(name, KEYS[i].words[word]) != NULL) {
                return true;
            }
        }
    }
    return false;
}

static void read_keys(const dsa_spec *spec, void *action)
{
    const Uint8 *keys = SDL_GetKeyboardState(NULL);
    memset(action, 0, spec->action_bytes);
    for (uint32_t i = 0; i < spec->action_count; i++) {
        bool wanted = is_wanted(keys, i, spec->action_names[i]);
        if (spec->action_type == DSA_DISCRETE && wanted) {
            int32_t choice = (int32_t)i;
            memcpy(action, &choice, sizeof choice);
        } else if (spec->action_type == DSA_MULTI_BINARY) {
            ((uint8_t *)action)[i] = wanted;
        } else if (spec->action_type == DSA_BOX) {
            /* The first two axes follow the arrows; the others rest in the middle. */
            float low = spec->action_low[i], high = spec->action_high[i], middle = low + (high - low) / 2;
            SDL_Scancode less = i ? SDL_SCANCODE_DOWN : SDL_SCANCODE_LEFT;
            SDL_Scancode more = i ? SDL_SCANCODE_UP : SDL_SCANCODE_RIGHT;
            ((float *)action)[i] = i < 2 && keys[less] ? low : i < 2 && keys[more] ? high : middle;
        }
    }
}

static int write_ppm(const char *path, const dsa_spec *spec, const uint8_t *frame)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        return -1;
    }
    fprintf(file, "P6\n%u %u\n255\n", (unsigned)spec->width, (unsigned)spec->height);
    bool written = fwrite(frame, 1, spec->frame_bytes, file) == spec->frame_bytes;
    return fclose(file) == 0 && written ? 0 : -1;
}

struct game {
    dsa_session *session;
    dsa_spec spec;
    uint64_t seed;
    uint8_t *frames, *newest, *snapshot; /* the pictures of a tick, one after the other, and the last of them */
    size_t snapshot_capacity, snapshot_bytes;
    bool ended;
};

/* A snapshot, in memory that grows if it must. */
static int32_t take_snapshot(struct game *game)
{
    size_t bytes;
    int32_t status = dsa_session_snapshot(game->session, game->snapshot, game->snapshot_capacity, &bytes);
    if (status == DSA_E_BUFFER) {
        uint8_t *larger = realloc(game->snapshot, bytes);
        if (larger == NULL) {
            return DSA_E_MEMORY;
        }
        game->snapshot = larger;
        game->snapshot_capacity = bytes;
        status = dsa_session_snapshot(game->session, larger, bytes, &bytes);
    }
    game->snapshot_bytes = status < 0 ? 0 : bytes;
    return status;
}

static uint32_t ticks_of_a_second(const dsa_spec *spec)
{
    return spec->period_us < 1000000 ? (uint32_t)(1000000 / spec->period_us) : 1;
}

static int32_t press(struct game *game, SDL_Scancode key)
{
    const dsa_spec *spec = &game->spec;
    switch (key) {
    case SDL_SCANCODE_ESCAPE: game->ended = true; return DSA_OK;
    case SDL_SCANCODE_R: return dsa_session_reset(game->session, ++game->seed, game->newest, spec->frame_bytes);
    case SDL_SCANCODE_P: return take_snapshot(game);
    case SDL_SCANCODE_L:
        return game->snapshot_bytes ? dsa_session_restore(game->session, game->snapshot, game->snapshot_bytes,
                                                          game->newest, spec->frame_bytes)
                                    : DSA_OK;
    case SDL_SCANCODE_BACKSPACE: {
        int32_t status =
            dsa_session_rewind(game->session, ticks_of_a_second(spec), game->newest, spec->frame_bytes);
        return status == DSA_E_SESSION ? DSA_OK : status; /* there is less than a second to go back */
    }
    default: return DSA_OK;
    }
}

struct film {
    SDL_Renderer *renderer;
    SDL_Texture *texture;
    Uint64 due; /* when the next picture is to be there */
};

/* Show a picture, for as long as the world's rate says. */
static void show(struct film *film, const dsa_spec *spec, const uint8_t *picture)
{
    SDL_UpdateTexture(film->texture, NULL, picture, (int)(spec->width * spec->channels));
    SDL_RenderClear(film->renderer);
    SDL_RenderCopy(film->renderer, film->texture, NULL, NULL);
    SDL_RenderPresent(film->renderer);
    Uint64 second = SDL_GetPerformanceFrequency(), now = SDL_GetPerformanceCounter();
    film->due += (Uint64)((double)second / spec->fps);
    if (film->due > now) {
        SDL_Delay((Uint32)((film->due - now) * 1000 / second));
    } else {
        film->due = now;
    }
}

static int play(struct game *game, SDL_Renderer *renderer, SDL_Texture *texture, long frames)
{
    const dsa_spec *spec = &game->spec;
    void *action = malloc(spec->action_bytes);
    if (action == NULL) {
        return fail("memory", "none is left");
    }
    int32_t status = DSA_OK;
    struct film film = {renderer, texture, SDL_GetPerformanceCounter()};
    for (long shown = 0; !game->ended && status >= 0 && (frames == 0 || shown < frames); shown++) {
        for (SDL_Event event; SDL_PollEvent(&event);) {
            if (event.type == SDL_QUIT) {
                game->ended = true;
            } else if (event.type == SDL_KEYDOWN && !event.key.repeat && status >= 0) {
                status = press(game, event.key.keysym.scancode);
            }
        }
        if (status < 0) {
            break;
        }
        read_keys(spec, action);
        /* A part of the period is for drawing. A miss shows the frame before. */
        status = dsa_session_step(game->session, action, spec->action_bytes, spec->period_us * 8 / 10, game->frames,
                                  spec->tick_bytes, NULL);
        /* Most worlds draw one picture a tick. */
        for (uint32_t i = 0; status >= 0 && i < spec->frames_per_tick; i++) {
            show(&film, spec, game->frames + i * spec->frame_bytes);
        }
    }
    free(action);
    return status < 0 ? fail(dsa_status_name(status), dsa_last_error()) : 0;
}

static int open_window(struct game *game, long frames, int scale)
{
    const dsa_spec *spec = &game->spec;
    int height = (int)spec->height * scale;
    int width = height * (int)spec->aspect_width / (int)spec->aspect_height;
    if (SDL_Init(SDL_INIT_VIDEO)) {
        return fail("SDL", SDL_GetError());
    }
    SDL_SetHint(SDL_HINT_RENDER_SCALE_QUALITY, "linear");
    SDL_Window *window =
        SDL_CreateWindow(spec->name, SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED, width, height, SDL_WINDOW_RESIZABLE);
    SDL_Renderer *renderer = window == NULL ? NULL : SDL_CreateRenderer(window, -1, 0);
    if (renderer == NULL && window != NULL) {
        renderer = SDL_CreateRenderer(window, -1, SDL_RENDERER_SOFTWARE);
    }
    SDL_Texture *texture = renderer == NULL ? NULL
                                            : SDL_CreateTexture(renderer, SDL_PIXELFORMAT_RGB24,
                                                                SDL_TEXTUREACCESS_STREAMING, (int)spec->width,
                                                                (int)spec->height);
    int result = texture == NULL ? fail("SDL", SDL_GetError()) : play(game, renderer, texture, frames);
    if (texture != NULL) SDL_DestroyTexture(texture);
    if (renderer != NULL) SDL_DestroyRenderer(renderer);
    if (window != NULL) SDL_DestroyWindow(window);
    SDL_Quit();
    return result;
}

int main(int argc, char **argv)
{
    const char *world_name = NULL, *picture = NULL;
    struct game game = {0};
    long frames = 0;
    int scale = 8;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--world") && *value) world_name = value;
        else if (!strcmp(argv[i], "--picture") && *value) picture = value;
        else if (!strcmp(argv[i], "--seed") && *value) game.seed = strtoull(value, NULL, 10);
        else if (!strcmp(argv[i], "--frames") && *value) frames = strtol(value, NULL, 10);
        else if (!strcmp(argv[i], "--scale") && atoi(value) > 0) scale = atoi(value);
        else return fputs(USAGE, stderr), 2;
    }
    dsa_runtime *runtime = NULL;
    dsa_world *world = NULL;
    dsa_world_config which;
    dsa_session_config how;
    dsa_world_config_init(&which, sizeof which);
    dsa_session_config_init(&how, sizeof how);
    dsa_spec_init(&game.spec, sizeof game.spec);
    which.world = world_name;
    how.seed = game.seed;
    how.on_miss = DSA_ON_MISS_REPEAT;
    int result = 1;
    if (dsa_runtime_open(NULL, &runtime) < 0) {
        return fail("runtime", dsa_last_error());
    }
    if (dsa_world_open(runtime, &which, &world) < 0 || dsa_world_spec(world, &game.spec) < 0) {
        result = fail("world", dsa_last_error());
    } else {
        how.history = ticks_of_a_second(&game.spec);
        if (dsa_session_open(world, &how, &game.session) < 0 ||
            dsa_session_snapshot(game.session, NULL, 0, &game.snapshot_capacity) < 0 ||
            dsa_session_prepare(game.session) < 0) {
            result = fail("session", dsa_last_error());
        } else {
            game.frames = calloc(1, game.spec.tick_bytes);
            game.newest = game.frames == NULL ? NULL : game.frames + game.spec.tick_bytes - game.spec.frame_bytes;
            game.snapshot = malloc(game.snapshot_capacity);
            game.snapshot_bytes = 0;
            result = game.frames != NULL && game.snapshot != NULL ? open_window(&game, frames, scale)
                                                                 : fail("memory", "none is left");
        }
    }
    if (result == 0 && picture != NULL && write_ppm(picture, &game.spec, game.newest)) {
        result = fail(picture, "cannot be written");
    }
    free(game.frames);
    free(game.snapshot);
    dsa_runtime_close(runtime);
    return result;
}
