/* A file system (FUSE) of one file, which never answers a read. Mounts itself on the folder that is
   its argument, prints "ready", serves until its standard input ends, and unmounts.

   It does not ask for asynchronous reads: so the reader itself sends the request, and once that has
   been taken, the kernel lets it wait unkillably (fs/fuse/dev.c, request_wait_answer()). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { kFile = 2, kFileBytes = 1 << 16, kForEver = 1000000 };

static int device;

static void answer(const struct fuse_in_header* request, int error, const void* body,
                   size_t body_bytes) {
    char packet[4096];
    struct fuse_out_header head = {
        .len = (unsigned)(sizeof(head) + body_bytes), .error = error, .unique = request->unique};
    memcpy(packet, &head, sizeof(head));
    if (body_bytes != 0) memcpy(packet + sizeof(head), body, body_bytes);
    if (write(device, packet, head.len) < 0) perror("answer");
}

static struct fuse_attr describe(unsigned long node) {
    struct fuse_attr attributes = {.ino = node, .nlink = 1, .blksize = 4096};
    attributes.mode = node == kFile ? S_IFREG | 0755 : S_IFDIR | 0755;
    attributes.size = node == kFile ? kFileBytes : 0;
    return attributes;
}

static void serve(const struct fuse_in_header* request) {
    switch (request->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out reply = {.major = 7, .minor = 31, .max_write = 4096};
            answer(request, 0, &reply, sizeof(reply));
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out reply = {.nodeid = kFile,
                                           .entry_valid = kForEver,
                                           .attr_valid = kForEver,
                                           .attr = describe(kFile)};
            answer(request, 0, &reply, sizeof(reply));
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out reply = {.attr_valid = kForEver,
                                          .attr = describe(request->nodeid)};
            answer(request, 0, &reply, sizeof(reply));
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out reply = {.fh = 1};
            answer(request, 0, &reply, sizeof(reply));
            break;
        }
        case FUSE_READ:
        case FUSE_INTERRUPT:
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            break;
        default:
            answer(request, -ENOSYS, NULL, 0);
    }
}

int main(int argc, char** argv) {
    static char packet[1 << 20];
    char options[128];
    if (argc != 2) return 2;
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    if (device < 0 || mount("silent", argv[1], "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
        perror("mount");
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct pollfd ways[] = {{device, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        if (poll(ways, 2, -1) < 0 && errno != EINTR) break;
        if (ways[1].revents != 0) break;
        const ssize_t got = read(device, packet, sizeof(packet));
        if (got >= (ssize_t)sizeof(struct fuse_in_header)) {
            serve((const struct fuse_in_header*)packet);
        } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
            break;
        }
    }
    return umount2(argv[1], MNT_DETACH) != 0;
}
