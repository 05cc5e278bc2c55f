// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package readers lets what people really read streams with read runs of a real
// manager: curl, Go, Node, a browser and the official OpenAI client, each with
// its connection cut in the middle, and through an nginx that buffers. What a
// reader ends up with has to be the stored text, byte for byte.
//
// It needs more than Go, so `make test` leaves it out and `make test-readers`
// runs it. It is a module of its own, so that the OpenAI client never gets near
// the manager.
package readers
