# A parallel build of two objects and a program, by make -j2: every compiler is forked and executed.
OUT := $(shell mktemp -d)
PARTS := 1 2
OBJECTS := $(PARTS:%=$(OUT)/guest%.o)

all: $(OUT)/guest
	rm -r $(OUT)

$(OUT)/guest: $(OBJECTS)
	tcc -o $@ $(firstword $(OBJECTS))

$(OUT)/guest%.o:
	tcc -DPART=$* -c ../fragmentation/guest.c -o $@
