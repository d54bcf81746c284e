// toml++ without exceptions: a parse gives a result to be asked. Private to common/config.
#ifndef CRESCENDO_COMMON_CONFIG_TOML_H_
#define CRESCENDO_COMMON_CONFIG_TOML_H_

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#endif  // CRESCENDO_COMMON_CONFIG_TOML_H_
