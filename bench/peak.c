/*
 * Runs a command with the same stdin and stdout and writes the peak of its resident memory, in KiB, to a file:
 *
 *     peak FILE COMMAND ARGUMENT...
 *
 * git waits for its filter, so git's own peak would hide the filter's: this stands between them.
 * The peak counts pages of mapped files too, as the kernel does (getrusage(2), ru_maxrss).
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage usage;
	int status;
	FILE *file;
	pid_t child;

	if (argc < 3) {
		fprintf(stderr, "usage: peak FILE COMMAND ARGUMENT...\n");
		return 2;
	}
	child = fork();
	if (!child) {
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	close(0);
	close(1);
	if (child < 0 || wait4(child, &status, 0, &usage) < 0) {
		perror("peak");
		return 1;
	}
	file = fopen(argv[1], "w");
	if (!file || fprintf(file, "%ld\n", usage.ru_maxrss) < 0 || fclose(file)) {
		perror(argv[1]);
		return 1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
