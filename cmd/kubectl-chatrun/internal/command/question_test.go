// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func TestQuestion(t *testing.T) {
	nothing := func() io.Reader { return strings.NewReader("") }
	says := func(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }
	for name, c := range map[string]struct {
		args  []string
		in    func() io.Reader
		stdin bool
		want  string
		fails string
	}{
		"argument":              {[]string{"Why?"}, nothing, true, "Why?", ""},
		"pipe":                  {nil, says("Why?\r\n\n"), true, "Why?", ""},
		"both":                  {[]string{"Review"}, says("diff\n"), true, "Review\n\ndiff", ""},
		"dash":                  {[]string{"-"}, says(" Why?\n"), true, " Why?", ""},
		"dash without reading":  {[]string{"-"}, says("Why?"), false, "Why?", ""},
		"pipe that is not read": {[]string{"Why?"}, says("noise"), false, "Why?", ""},
		"no pipe":               {[]string{"Why?"}, func() io.Reader { return nil }, true, "Why?", ""},
		"nothing":               {nil, nothing, true, "", "nothing to ask"},
		"blanks":                {[]string{" "}, says("\n\t\n"), true, "", "nothing to ask"},
		"unquoted":              {[]string{"Why", "so?"}, nothing, true, "", `in quotes, as in "Why so?"`},
		"no text":               {nil, says("a\xff"), true, "", "no text in UTF-8"},
		"broken":                {nil, func() io.Reader { return iotest.ErrReader(errors.New("torn")) }, true, "", "reading standard input: torn"},
		"the longest":           {nil, says(strings.Repeat("世", maxPrompt)), true, strings.Repeat("世", maxPrompt), ""},
		"too long":              {nil, says(strings.Repeat("a", maxPrompt+1)), true, "", "longer than 262144 characters"},
		"too long together":     {[]string{"a"}, says(strings.Repeat("a", maxPrompt-1)), true, "", "longer than"},
		"too long to be read":   {nil, says(strings.Repeat("世", maxStdin)), true, "", "longer than"},
		"more than is read":     {nil, says("Why?" + strings.Repeat("\n", maxStdin) + "Not?"), true, "", "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := question(c.args, c.in(), c.stdin)
			if got != c.want {
				t.Errorf("the question has %d characters, want %d: %.40q", len(got), len(c.want), got)
			}
			if (err != nil) != (c.fails != "") || (err != nil && !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("the error is %v, want %q", err, c.fails)
			}
		})
	}
}

func TestQuestionIsReadOfPipesAndFilesAlone(t *testing.T) {
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pipe.Close() }()
	if _, err := w.WriteString("of a pipe"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	device, err := os.Open(os.DevNull) // neither, as a terminal
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = device.Close() }()
	if !brings(pipe) || !brings(file) || brings(device) || brings(nil) {
		t.Error("what is read is not what was put there")
	}
	if got, err := question(nil, pipe, true); got != "of a pipe" || err != nil {
		t.Errorf("the question is %q, %v", got, err)
	}
}
