/* What the library leaves alone: signal handlers, locale, working folder, stdio; and what it does after fork().
   manners WORLD */

#define _XOPEN_SOURCE 700
#include <locale.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { SIGNALS = 32 };

static void on_signal(int number) { (void)number; }

static void handlers(struct sigaction *found)
{
    memset(found, 0, SIGNALS * sizeof *found);
    for (int i = 1; i < SIGNALS; i++) sigaction(i, NULL, &found[i]);
}

static int logged;

static void on_log(void *user, int32_t level, const char *message)
{
    CHECK(user == &logged && level >= DSA_LOG_INFO && message[0] != '\0');
    logged++;
}

int main(int count, char **arguments)
{
    static struct sigaction before[SIGNALS], after[SIGNALS];
    char folder[4096], again[4096];
    CHECK(count == 2);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, NULL);
    handlers(before);
    CHECK(getcwd(folder, sizeof folder) != NULL);

    dsa_runtime_config config;
    dsa_runtime *runtime, *second;
    CHECK(dsa_runtime_config_init(&config, sizeof config) == DSA_OK);
    config.log = on_log;
    config.log_user = &logged;
    config.log_level = DSA_LOG_INFO;
    CHECK(dsa_runtime_open(&config, &runtime) == DSA_OK);
    CHECK(logged > 0);
    dsa_world_config world_config;
    dsa_world *world;
    dsa_session *session;
    CHECK(dsa_world_config_init(&world_config, sizeof world_config) == DSA_OK);
    world_config.world = arguments[1];
    CHECK(dsa_world_open(runtime, &world_config, &world) == DSA_OK);
    CHECK(dsa_session_open(world, NULL, &session) == DSA_OK);
    CHECK(dsa_session_prepare(session) == DSA_OK);
    int32_t choice = 0;
    CHECK(dsa_session_step(session, &choice, sizeof choice, DSA_BUDGET_NONE, NULL, 0, NULL) == DSA_OK);

    handlers(after);
    for (int i = 1; i < SIGNALS; i++) CHECK(before[i].sa_handler == after[i].sa_handler);
    CHECK(strcmp(setlocale(LC_ALL, NULL), "C") == 0);
    CHECK(getcwd(again, sizeof again) != NULL && strcmp(folder, again) == 0);
    CHECK(raise(SIGINT) == 0); /* goes to our handler: we live */

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dsa_tick tick;
        dsa_tick_init(&tick, sizeof tick);
        EXPECT(DSA_E_FORKED, dsa_session_step(session, &choice, sizeof choice, DSA_BUDGET_NONE, NULL, 0, &tick),
               "fork");
        EXPECT(DSA_E_FORKED, dsa_session_cancel(session, NULL), "fork");
        EXPECT(DSA_E_FORKED, dsa_runtime_open(NULL, &second), "fork");
        EXPECT(DSA_E_FORKED, dsa_runtime_close(runtime), "fork");
        _exit(42);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK(dsa_session_step(session, &choice, sizeof choice, DSA_BUDGET_NONE, NULL, 0, NULL) == DSA_OK);

    /* A second runtime, and one after the last was closed. */
    CHECK(dsa_runtime_open(NULL, &second) == DSA_OK && second != runtime);
    CHECK(dsa_runtime_close(runtime) == DSA_OK && dsa_runtime_close(second) == DSA_OK);
    CHECK(dsa_runtime_open(NULL, &runtime) == DSA_OK);
    CHECK(dsa_world_open(runtime, &world_config, &world) == DSA_OK);
    CHECK(dsa_session_open(world, NULL, &session) == DSA_OK);
    CHECK(dsa_session_step(session, &choice, sizeof choice, DSA_BUDGET_NONE, NULL, 0, NULL) == DSA_OK);
    CHECK(dsa_runtime_close(runtime) == DSA_OK);
    puts("ok");
    return 0;
}
