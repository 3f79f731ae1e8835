#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion::output {

/// Who chose the output's name, and with it the folder that it is in.
enum class NameOrigin {
    kUser,     ///< `-o`
    kDefault,  ///< The default, in the folder that the program was started in.
};

struct OpenedOutput {
    UniqueFd fd;
    UniqueFd folder;   ///< That `name` is relative to; none: the current one.
    std::string name;  ///< To remove the file by, if nothing is written.
    bool created = false;
    /// It goes on from where it stands, with what others write to it: it is neither emptied nor cut
    /// back.
    bool is_shared = false;
};

/// As a user's name: this process's standard output.
constexpr std::string_view kStandardOutput = "-";

/// The descriptor of this process that a user's name stands for: kStandardOutput, /dev/stdout,
/// /dev/stderr, /dev/fd/N (kDescriptorFolders). To open such a name anew would begin a file at its
/// start that others append to.
std::optional<int> find_own_descriptor(std::string_view path);
/// For messages: `standard output`, or the path.
std::string name_output(const std::string& path);

/// Opens or creates `path` for writing, on behalf of whoever runs this program. It may be root in a
/// folder of somebody who would have root write elsewhere.
///
/// - A default name is created anew. What is there is replaced only if it is an earlier profile: a
///   regular file of this user's with one name, that begins like one (or is empty). No link is
///   followed. Under root others may not read the file.
/// - A user's name is opened as open() does, unless this program has rights over other users'
///   files (platform/files.h: has_power_over_files()). Then each folder on the way is opened by
///   itself, no link is followed that another user could have made, and in a folder that another
///   user can write to only regular files and FIFOs of this user's are written.
///
/// - A user's name of an open descriptor (find_own_descriptor()) is a copy of that. Writing to it
///   may wait.
///
/// A file that exists keeps its content. A FIFO must have a reader within a second. What was
/// checked is what is open: nothing is looked up twice by name. `fd` does not block on a FIFO.
///
/// Errors: kSystem with errno; kInvalid with the reason and what to do.
Result<OpenedOutput> open_output(const std::string& path, NameOrigin origin);

}  // namespace echion::output
