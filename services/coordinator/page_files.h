// The files of the page, built into the program (deploy/cmake/EmbedFiles.cmake writes the table).
#ifndef CRESCENDO_SERVICES_COORDINATOR_PAGE_FILES_H_
#define CRESCENDO_SERVICES_COORDINATOR_PAGE_FILES_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

struct EmbeddedFile {
  absl::string_view name;  // "page.js"
  absl::string_view bytes;
};

absl::Span<const EmbeddedFile> PageFiles();

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_PAGE_FILES_H_
