/* start [PYTHON [THEN]]: open the runtime with these one after the other, and say what came of it. "-": none given. */

#include "check.h"

int main(int count, char **arguments)
{
    for (int i = 1; i < count || i == 1; i++) {
        dsa_runtime_config config;
        dsa_runtime *runtime = (dsa_runtime *)&config;
        CHECK(dsa_runtime_config_init(&config, sizeof config) == DSA_OK);
        config.python = i < count && strcmp(arguments[i], "-") != 0 ? arguments[i] : NULL;
        int32_t status = dsa_runtime_open(&config, &runtime);
        CHECK((status == DSA_OK) == (runtime != NULL));
        printf("%s %s\n", dsa_status_name(status), status < 0 ? dsa_last_error() : "");
        CHECK(dsa_runtime_close(runtime) == DSA_OK);
    }
    return 0;
}
