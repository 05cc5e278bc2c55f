// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// parallelApplies bounds the kubectl processes at a time: each spends its time
// on a processor, so more of them would only wait for each other.
const parallelApplies = 4

// leastBad is how many bad manifests there must be: a glob that finds none
// would pass for the wrong reason.
const leastBad = 50

// manifest is one file of testdata: documents that are applied in turn. Of a
// bad one the last document is refused, and what kubectl prints holds every
// text that the file's first lines want.
type manifest struct {
	file      string
	wants     []string
	documents []string
	answers   []answer
}

var wantLine = regexp.MustCompile(`(?m)^# want: (.+)$`)

func manifests(folder string) []*manifest {
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil {
		panic(err)
	}
	all := make([]*manifest, 0, len(files))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		m := &manifest{file: filepath.Base(file), documents: strings.Split(string(text), "\n---\n")}
		for _, match := range wantLine.FindAllStringSubmatch(string(text), -1) {
			m.wants = append(m.wants, match[1])
		}
		all = append(all, m)
	}
	return all
}

// applyAll applies each manifest's documents in turn, several manifests at a
// time, and keeps the answers.
func applyAll(ctx SpecContext, namespace string, all []*manifest) {
	places := make(chan struct{}, parallelApplies)
	var running sync.WaitGroup
	for _, m := range all {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			for _, document := range m.documents {
				m.answers = append(m.answers, kubectl(ctx, namespace, document, "apply", "--filename", "-"))
			}
		})
	}
	running.Wait()
}

var _ = Describe("kubectl apply", func() {
	Describe("of a good manifest", Ordered, ContinueOnFailure, func() {
		all := manifests("good")
		BeforeAll(func(ctx SpecContext) { applyAll(ctx, newNamespace(ctx), all) })

		for _, m := range all {
			It("accepts "+m.file, func() {
				for i, got := range m.answers {
					Expect(got.err).NotTo(HaveOccurred(), "document %d: %s", i+1, got.stderr)
					Expect(got.stderr).To(BeEmpty(), "document %d: a warning", i+1)
				}
			})
		}
	})

	Describe("of a bad manifest", Ordered, ContinueOnFailure, func() {
		all := manifests("bad")
		BeforeAll(func(ctx SpecContext) { applyAll(ctx, newNamespace(ctx), all) })

		It("is tried with every rule", func() {
			Expect(len(all)).To(BeNumerically(">=", leastBad))
		})

		for _, m := range all {
			It("refuses "+m.file, func() {
				last := len(m.answers) - 1
				for i, got := range m.answers[:last] {
					Expect(got.err).NotTo(HaveOccurred(), "document %d: %s", i+1, got.stderr)
				}
				Expect(m.answers[last].err).To(HaveOccurred(), "it was accepted")
				Expect(m.wants).NotTo(BeEmpty(), "the file does not say which message it wants")
				for _, want := range m.wants {
					Expect(m.answers[last].stderr).To(ContainSubstring(want))
				}
			})
		}
	})
})
