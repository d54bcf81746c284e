// Completion: every command and every option that its help names, once, in a script that bash
// takes.
#include <cstdio>
#include <fstream>

#include "catch2/catch.hpp"
#include "deploy/cli/completion.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

TEST_CASE("options are those that the help names, without keys of the recipe") {
  const std::vector<std::string> options = OptionsOf(
      "crescendo x [--out DIR] [--dry-run]\n  --out DIR  see --plain\n  --section.key=value any");
  CHECK(options == std::vector<std::string>{"--out", "--dry-run", "--plain"});
  CHECK(OptionsOf("nothing -- here").empty());
}

// What bash offers for a line, its words separated by spaces; the last word is being typed.
std::string Complete(const std::string& script, const std::string& line) {
  const TempDir dir;
  const std::string path = dir.path() + "/completion.bash";
  std::ofstream(path) << script << "\nCOMP_WORDS=(" << line
                      << ")\nCOMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))\n"
                      << "_crescendo\necho \"${COMPREPLY[@]}\"\n";
  FILE* pipe = popen(("bash " + path).c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string out;
  char buffer[256];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) out += buffer;
  CHECK(pclose(pipe) == 0);
  return out;
}

TEST_CASE("bash offers commands first, then the options of the command") {
  const std::string script = BashCompletion({{"train", "[--out DIR] [--plain]"}, {"top", ""}});
  CHECK(Complete(script, "crescendo t") == "train top\n");
  CHECK(Complete(script, "crescendo train --") == "--out --plain --help\n");
  CHECK(Complete(script, "crescendo train --o") == "--out\n");
  CHECK(Complete(script, "crescendo top --") == "--help\n");
}

}  // namespace
}  // namespace crescendo
