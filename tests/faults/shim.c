/* A file-system shim: loaded with LD_PRELOAD, it asks another process before everything that changes a folder.

   Each question is a line "operation TAB bytes TAB path TAB other path" on a socket; the process waits for the answer,
   so that the asker may look at the disk as it is, kill it, or answer:
     go         do it
     half       write half of the bytes, ask once more ("half"), then write the rest
     fail N     do nothing and fail with errno N
     free N     of statvfs: do it, but say that N bytes are free
   It sees every caller of libc, in any language and thread. It does not see mmap, io_uring and stdio (fwrite), so
   whoever uses it compares the sizes of the files with the bytes that were asked for.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define GO 0
#define HALF -1
#define FREE -2
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define ALSO(name, other) extern __typeof__(name) other __attribute__((alias(#name)))

static int control = -1;  /* the socket; -1 in a process that is not watched */
static pid_t watched;     /* a child of it that has not been told to is not */
static char root[PATH_MAX];
static unsigned long long free_bytes;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* one operation at a time, until it is done */

void shim_watch(int socket, const char *folder) {
    snprintf(root, sizeof root, "%s", folder);
    watched = getpid();
    control = socket;
}

static int armed(void) { return control >= 0 && getpid() == watched; }

static int inside(const char *path) {
    size_t n = strlen(root);
    return !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static int path_of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
    return n > 0;
}

/* The absolute path of a name below a folder's descriptor; whether it lies in the watched folder. */
static int seen(int folder, const char *name, char *out) {
    char base[PATH_MAX];
    if (!armed() || !name) return 0;
    if (name[0] == '/') snprintf(out, PATH_MAX, "%s", name);
    else {
        if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of_fd(folder, base)) return 0;
        int n = snprintf(out, PATH_MAX, "%s/%s", base, name);
        if (n < 0 || n >= PATH_MAX) return 0;
    }
    return inside(out);
}

static int seen_fd(int fd, char *out) { return armed() && fd != control && path_of_fd(fd, out) && inside(out); }

/* Ask and wait. Takes the turn; whoever gets GO, HALF or FREE gives it back with done(). */
static int ask(const char *operation, size_t bytes, const char *path, const char *other) {
    REAL(write);
    char text[2 * PATH_MAX + 64], answer[64];
    int n = snprintf(text, sizeof text, "%s\t%zu\t%s\t%s\n", operation, bytes, path, other);
    pthread_mutex_lock(&turn);
    if (real(control, text, n) != n) _exit(99);
    for (n = 0; n < (int)sizeof answer - 1; n++) {
        ssize_t got;
        do got = read(control, answer + n, 1); while (got < 0 && errno == EINTR); /* a signal waits for its turn */
        if (got != 1) _exit(99);
        if (answer[n] == '\n') break;
    }
    answer[n] = 0;
    if (!strcmp(answer, "go")) return GO;
    if (!strcmp(answer, "half")) return HALF;
    if (sscanf(answer, "free %llu", &free_bytes) == 1) return FREE;
    pthread_mutex_unlock(&turn);
    return atoi(answer + 5);
}

static void done(void) {
    int kept = errno;
    pthread_mutex_unlock(&turn);
    errno = kept;
}

#define GUARD(known, operation, bytes, path, other, call) \
    if (!(known)) return call; \
    int answer = ask(operation, bytes, path, other); \
    if (answer > 0) { errno = answer; return -1; } \
    __typeof__(call) result = call; \
    done(); \
    return result

/* --- names --- */

static int open_at(int folder, const char *name, int flags, mode_t mode) {
    REAL(openat);
    char path[PATH_MAX];
    int changes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    const char *operation = flags & O_TRUNC ? "open anew" : flags & O_CREAT ? "open or make" : "open";
    GUARD(changes && seen(folder, name, path), operation, 0, path, "", real(folder, name, flags, mode));
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { \
    va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *name, int flags, ...) { MODE return open_at(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE return open_at(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
ALSO(open, open64); ALSO(openat, openat64); ALSO(creat, creat64);

static int rename_at(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    char path[PATH_MAX], other[PATH_MAX];
    int known = seen(to, new, other) & seen(from, old, path);
    GUARD(known, "rename", 0, path, other, real(from, old, to, new));
}
int rename(const char *old, const char *new) { return rename_at(AT_FDCWD, old, AT_FDCWD, new); }
int renameat(int from, const char *old, int to, const char *new) { return rename_at(from, old, to, new); }

static int link_at(int from, const char *old, int to, const char *new, int flags) {
    REAL(linkat);
    char path[PATH_MAX], other[PATH_MAX] = "";
    seen(from, old, other);
    GUARD(seen(to, new, path), "link", 0, path, other, real(from, old, to, new, flags));
}
int link(const char *old, const char *new) { return link_at(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    return link_at(from, old, to, new, flags);
}

static int symlink_at(const char *target, int to, const char *new) {
    REAL(symlinkat);
    char path[PATH_MAX];
    GUARD(seen(to, new, path), "symlink", 0, path, target, real(target, to, new));
}
int symlink(const char *target, const char *new) { return symlink_at(target, AT_FDCWD, new); }
int symlinkat(const char *target, int to, const char *new) { return symlink_at(target, to, new); }

static int unlink_at(int folder, const char *name, int flags) {
    REAL(unlinkat);
    char path[PATH_MAX];
    GUARD(seen(folder, name, path), flags & AT_REMOVEDIR ? "rmdir" : "unlink", 0, path, "",
          real(folder, name, flags));
}
int unlink(const char *name) { return unlink_at(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlink_at(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int folder, const char *name, int flags) { return unlink_at(folder, name, flags); }

static int mkdir_at(int folder, const char *name, mode_t mode) {
    REAL(mkdirat);
    char path[PATH_MAX];
    GUARD(seen(folder, name, path), "mkdir", 0, path, "", real(folder, name, mode));
}
int mkdir(const char *name, mode_t mode) { return mkdir_at(AT_FDCWD, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { return mkdir_at(folder, name, mode); }

int truncate(const char *name, off_t size) {
    REAL(truncate);
    char path[PATH_MAX];
    GUARD(seen(AT_FDCWD, name, path), "truncate", size, path, "", real(name, size));
}
int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    char path[PATH_MAX];
    GUARD(seen_fd(fd, path), "truncate", size, path, "", real(fd, size));
}
ALSO(truncate, truncate64); ALSO(ftruncate, ftruncate64);

int chmod(const char *name, mode_t mode) {
    REAL(chmod);
    char path[PATH_MAX];
    GUARD(seen(AT_FDCWD, name, path), "chmod", mode, path, "", real(name, mode));
}
int fchmod(int fd, mode_t mode) {
    REAL(fchmod);
    char path[PATH_MAX];
    GUARD(seen_fd(fd, path), "chmod", mode, path, "", real(fd, mode));
}

/* --- bytes --- */

ssize_t write(int fd, const void *data, size_t bytes) {
    REAL(write);
    char path[PATH_MAX];
    if (!seen_fd(fd, path)) return real(fd, data, bytes);
    int answer = ask("write", bytes, path, "");
    if (answer > 0) { errno = answer; return -1; }
    if (answer == HALF) {
        ssize_t first = real(fd, data, bytes / 2);
        done();
        ask("half", bytes, path, "");
        ssize_t rest = real(fd, (const char *)data + first, bytes - first);
        done();
        return first + rest;
    }
    ssize_t result = real(fd, data, bytes);
    done();
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
    REAL(pwrite);
    char path[PATH_MAX];
    GUARD(seen_fd(fd, path), "write", bytes, path, "", real(fd, data, bytes, at));
}
ALSO(pwrite, pwrite64);

static size_t total(const struct iovec *pieces, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += pieces[i].iov_len;
    return bytes;
}
ssize_t writev(int fd, const struct iovec *pieces, int count) {
    REAL(writev);
    char path[PATH_MAX];
    GUARD(seen_fd(fd, path), "write", total(pieces, count), path, "", real(fd, pieces, count));
}

ssize_t sendfile(int to, int from, off_t *at, size_t bytes) {
    REAL(sendfile);
    char path[PATH_MAX];
    GUARD(seen_fd(to, path), "copy", bytes, path, "", real(to, from, at, bytes));
}
ALSO(sendfile, sendfile64);

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *where, size_t bytes, unsigned flags) {
    REAL(copy_file_range);
    char path[PATH_MAX];
    GUARD(seen_fd(to, path), "copy", bytes, path, "", real(from, at, to, where, bytes, flags));
}

int fsync(int fd) {
    REAL(fsync);
    char path[PATH_MAX];
    GUARD(seen_fd(fd, path), "sync", 0, path, "", real(fd));
}
int fdatasync(int fd) {
    REAL(fdatasync);
    char path[PATH_MAX];
    GUARD(seen_fd(fd, path), "sync", 0, path, "", real(fd));
}

/* --- free space --- */

int statvfs(const char *name, struct statvfs *found) {
    REAL(statvfs);
    char path[PATH_MAX];
    if (!seen(AT_FDCWD, name, path)) return real(name, found);
    int answer = ask("statvfs", 0, path, "");
    if (answer > 0) { errno = answer; return -1; }
    int result = real(name, found);
    if (answer == FREE && !result) found->f_bavail = free_bytes / found->f_frsize;
    done();
    return result;
}
int statvfs64(const char *name, struct statvfs64 *found) { return statvfs(name, (struct statvfs *)found); } /* alike */
