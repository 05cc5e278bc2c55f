// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package oracle compares our provider clients with the vendors' own Go
// libraries: both are run against the same fakes. Where the libraries are
// right, ours give the same text, finish reason and usage; where they are
// wrong, the tests say how, and that ours are right.
//
// The same is done with the library that Helm and its kin wait with (kstatus).
//
// It is a module of its own, so that the libraries never get near the manager.
package oracle
