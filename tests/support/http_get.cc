#include "tests/support/http_get.h"

#include <httplib.h>

namespace crescendo {

std::string HttpGet(const std::string& address, const std::string& path) {
  httplib::Client client("http://" + address);
  client.set_connection_timeout(10);
  client.set_read_timeout(10);
  const httplib::Result result = client.Get(path.c_str());
  return result && result->status == 200 ? result->body : "";
}

}  // namespace crescendo
