#include "tests/support/rank_processes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"

namespace crescendo {

int FreeLoopbackPort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  REQUIRE(fd >= 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(fd);
  return ntohs(address.sin_port);
}

RankProcesses StartRanks(int size, const std::string& test_case, const std::string& scenario,
                         const std::string& folder, const std::vector<int>& left_out) {
  char self[4096] = {};
  REQUIRE(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
  const int port = FreeLoopbackPort();
  RankProcesses processes;
  for (int rank = 0; rank < size; ++rank) {
    if (std::find(left_out.begin(), left_out.end(), rank) != left_out.end()) continue;
    processes.ranks.push_back(Subprocess::Start(
        {self, test_case}, {absl::StrCat("RANK=", rank), absl::StrCat("WORLD_SIZE=", size),
                            "MASTER_ADDR=127.0.0.1", absl::StrCat("MASTER_PORT=", port),
                            absl::StrCat("SCENARIO=", scenario), absl::StrCat("FOLDER=", folder)}));
  }
  return processes;
}

void RankProcesses::Join(const std::vector<int>& exit_codes, absl::Duration timeout) {
  for (size_t i = 0; i < ranks.size(); ++i) {
    const std::optional<int> code = ranks[i]->Wait(timeout);
    INFO("process " << i << " said:\n" << ranks[i]->output());
    REQUIRE(code.has_value());
    if (!exit_codes.empty()) CHECK(*code == exit_codes[i]);
  }
}

}  // namespace crescendo
