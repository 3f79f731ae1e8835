#pragma once

#include "base/unique_fd.h"

namespace echion {

/// Whether this process may write other users' files: it is root, or has the system's right to
/// (CAP_DAC_OVERRIDE).
bool has_power_over_files();

/// Whether the links in this folder are the system's, which stand for open files and name no way:
/// those of /dev/fd lead there.
bool has_links_to_open_files(int folder);

/// Opens a folder to look names up in it, not to list it: that takes the right to go through it
/// alone. `where`: that `name` is relative to, as openat(2). None, with errno, where it is none.
UniqueFd open_folder(int where, const char* name, bool follows_link = true);

/// Whether what is written to this descriptor goes anywhere; false when it is closed.
bool is_open_for_writing(int fd);

/// A file in a folder that has no name, for this process alone, to be read and written; none, with
/// errno.
UniqueFd make_unnamed_file(const char* folder);

/// Folders in which this process's open descriptors have names, each with a slash at its end; ends
/// with a null.
extern const char* const kDescriptorFolders[];

}  // namespace echion
