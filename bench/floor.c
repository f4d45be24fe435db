/*
 * The floor: a filter.process that does nothing. What a checkout or an add costs with it is the cost of git's own
 * pipe; a filter that computes what it writes is hardly faster.
 *
 *     floor [--splice] FOLDER
 *
 * Clean reads the content and answers a constant. Smudge answers with the bytes of FOLDER/<pathname>, which lie in
 * the page cache. Protocol: git's gitattributes(5), "Long Running Filter Process", version 2, without delay.
 * Widened pipes, big reads, scatter writes. With --splice the pages of the files become the pipe's, without a copy,
 * which only bytes that lie on the disk as git wants them can. Any surprise ends the program: this is a measuring stick, not a tool.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAYLOAD_MAX 65516
#define PIPE_SIZE (1 << 20)
#define PACKETS_A_WRITE 32

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
	exit(1);
}

/* Reading: one buffer, refilled by reads as large as the pipe. */

static char buffer[PIPE_SIZE];
static size_t begin, end;

/* Make at least `need` bytes available; 0 at a clean end of the input. */
static int fill(size_t need)
{
	if (end - begin >= need)
		return 1;
	memmove(buffer, buffer + begin, end - begin);
	end -= begin;
	begin = 0;
	while (end < need) {
		ssize_t n = read(0, buffer + end, sizeof(buffer) - end);
		if (n < 0)
			fail("read");
		if (n == 0) {
			if (end)
				fail("input ends inside a packet");
			return 0;
		}
		end += n;
	}
	return 1;
}

/* The next packet: its payload's length, -1 for a flush, -2 at the end of the input. */
static long packet(char **payload)
{
	char digits[5] = "";
	char *rest;
	long length;

	if (!fill(4))
		return -2;
	memcpy(digits, buffer + begin, 4);
	length = strtol(digits, &rest, 16);
	if (*rest || length == 1 || length == 2 || length == 3 || length > PAYLOAD_MAX + 4)
		fail("bad packet length");
	if (!length) {
		begin += 4;
		return -1;
	}
	if (!fill(length))
		fail("input ends inside a packet");
	*payload = buffer + begin + 4;
	begin += length;
	return length - 4;
}

/* Writing. */

static void write_all(struct iovec *piece, int pieces)
{
	while (pieces) {
		ssize_t n = writev(1, piece, pieces);
		if (n < 0)
			fail("write");
		while (pieces && (size_t)n >= piece->iov_len) {
			n -= piece->iov_len;
			piece++;
			pieces--;
		}
		if (pieces) {
			piece->iov_base = (char *)piece->iov_base + n;
			piece->iov_len -= n;
		}
	}
}

static void say(const char *packets)
{
	struct iovec piece = { (void *)packets, strlen(packets) };
	write_all(&piece, 1);
}

static void say_content(const char *data, size_t size)
{
	static char heads[PACKETS_A_WRITE][5];
	struct iovec piece[2 * PACKETS_A_WRITE];

	while (size) {
		int i;
		for (i = 0; i < PACKETS_A_WRITE && size; i++) {
			size_t length = size < PAYLOAD_MAX ? size : PAYLOAD_MAX;
			snprintf(heads[i], sizeof(heads[i]), "%04zx", length + 4);
			piece[2 * i] = (struct iovec){ heads[i], 4 };
			piece[2 * i + 1] = (struct iovec){ (void *)data, length };
			data += length;
			size -= length;
		}
		write_all(piece, 2 * i);
	}
}

/* The same from an open file, whose pages the pipe takes as they are. */
static void splice_content(int fd, size_t size)
{
	loff_t at = 0;

	while (size) {
		char head[5];
		size_t length = size < PAYLOAD_MAX ? size : PAYLOAD_MAX;

		snprintf(head, sizeof(head), "%04zx", length + 4);
		say(head);
		size -= length;
		while (length) {
			ssize_t n = splice(fd, &at, 1, NULL, length, SPLICE_F_MORE);
			if (n <= 0)
				fail("splice");
			length -= n;
		}
	}
}

static void smudge(const char *path, int spliced)
{
	struct stat status;
	char *data;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &status) < 0)
		fail(path);
	say("0013status=success\n0000");
	if (spliced) {
		splice_content(fd, status.st_size);
	} else if (status.st_size) {
		data = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
		if (data == MAP_FAILED)
			fail("mmap");
		say_content(data, status.st_size);
		munmap(data, status.st_size);
	}
	close(fd);
	say("00000000");
}

static void skip_to_flush(void)
{
	char *payload;
	long length;

	while ((length = packet(&payload)) >= 0)
		;
	if (length == -2)
		fail("input ends inside a request");
}

int main(int argc, char **argv)
{
	static char path[PAYLOAD_MAX + 4096];
	size_t folder;
	long length;
	char *payload;
	int spliced = argc == 3 && !strcmp(argv[1], "--splice");

	if (argc != 2 + spliced || strlen(argv[1 + spliced]) > 4000) {
		fprintf(stderr, "usage: floor [--splice] FOLDER\n");
		return 2;
	}
	folder = snprintf(path, sizeof(path), "%s/", argv[1 + spliced]);
	fcntl(0, F_SETPIPE_SZ, PIPE_SIZE);
	fcntl(1, F_SETPIPE_SZ, PIPE_SIZE);

	skip_to_flush();
	say("0016git-filter-server\n000eversion=2\n0000");
	skip_to_flush();
	say("0015capability=clean\n0016capability=smudge\n0000");

	for (;;) {
		int is_smudge = 0;

		while ((length = packet(&payload)) >= 0) {
			if (length && payload[length - 1] == '\n')
				length--;
			if (length == 14 && !memcmp(payload, "command=smudge", 14))
				is_smudge = 1;
			if (length > 9 && !memcmp(payload, "pathname=", 9)) {
				memcpy(path + folder, payload + 9, length - 9);
				path[folder + length - 9] = 0;
			}
		}
		if (length == -2)
			return 0;
		skip_to_flush();
		if (is_smudge)
			smudge(path, spliced);
		else
			say("0013status=success\n0000000dconstant\n00000000");
	}
}
