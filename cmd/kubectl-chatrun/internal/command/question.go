// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// maxPrompt is the API's bound on a prompt, in characters, and maxStdin one on what is
// read before they are counted.
const (
	maxPrompt = 262144
	maxStdin  = 4 * maxPrompt
)

var errLong = fmt.Errorf("the question is longer than %d characters, the most that a prompt may have: see messagesFrom in docs/chatrun.md", maxPrompt)

// question is what is asked: the argument, standard input, or the one above the other.
// An argument of - stands for standard input, and without an argument that is meant. With
// one, it is read where it is a pipe or a file: a terminal is for Ctrl-C.
func question(args []string, in io.Reader, stdin bool) (string, error) {
	if len(args) > 1 {
		return "", fmt.Errorf("the question is one argument: put it in quotes, as in %q", strings.Join(args, " "))
	}
	var parts []string
	if len(args) == 1 && args[0] != "-" {
		parts = append(parts, args[0])
	}
	explicit := len(args) == 1 && args[0] == "-"
	if explicit || (stdin && brings(in)) {
		raw, err := io.ReadAll(io.LimitReader(in, maxStdin+1))
		if err != nil {
			return "", fmt.Errorf("reading standard input: %w", err)
		}
		if len(raw) > maxStdin {
			return "", errLong
		}
		if !utf8.Valid(raw) {
			return "", errors.New("standard input is no text in UTF-8")
		}
		if raw = bytes.TrimRight(raw, "\r\n"); len(raw) > 0 {
			parts = append(parts, string(raw))
		}
	}
	prompt := strings.Join(parts, "\n\n")
	switch {
	case strings.TrimSpace(prompt) == "":
		return "", errors.New("there is nothing to ask: give the question as an argument, or by a pipe")
	case utf8.RuneCountInString(prompt) > maxPrompt:
		return "", errLong
	}
	return prompt, nil
}

// brings says whether standard input was put there for us.
func brings(in io.Reader) bool {
	f, is := in.(*os.File)
	if !is {
		return in != nil
	}
	info, err := f.Stat()
	return err == nil && (info.Mode().IsRegular() || info.Mode()&os.ModeNamedPipe != 0)
}
