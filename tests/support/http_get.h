// One HTTP request of a test.
#ifndef CRESCENDO_TESTS_SUPPORT_HTTP_GET_H_
#define CRESCENDO_TESTS_SUPPORT_HTTP_GET_H_

#include <string>

namespace crescendo {

// The body of http://ADDRESS/PATH; "" when there was no good answer within 10 s.
std::string HttpGet(const std::string& address, const std::string& path);

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_HTTP_GET_H_
